"""The harness model `kvtp_sweep`: one pass over the videos answers for many methods, into their journals.

Runs of `llava_video_kvtp` that resume from these journals then find every answer; `lmms-kvtp sweep` starts both.
"""

from pathlib import Path
from typing import Any, ClassVar

from lmms_eval.utils import simple_parse_args_string

from lmms_kvtp.files import read_json
from lmms_kvtp.harness.results import open_session
from lmms_kvtp.model_wrappers.baselines import ChatKvtp
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.run.answerer import Lane
from lmms_kvtp.run.build import build
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import Arguments, parse_arguments


class KvtpSweep(LlavaVideoKvtp):
    """Answers as the first of its methods; what the others answer is in their journals."""

    family: ClassVar[str | None] = None

    def __init__(self, cells: str, batch_size: Any = 1, device: str | None = None) -> None:
        """Load the model once, and all methods.

        Args:
            cells: a JSON file: a list of `--model_args`, which differ in the method and the journal.
            batch_size: of the harness; the cells have their own.
            device: for all cells.

        Raises:
            ValueError: the cells do not share model and frames, or their number is 0.
        """
        settings = [simple_parse_args_string(given) for given in read_json(Path(cells), list)]
        if not settings:
            raise ValueError(f"{cells} holds no cells: give at least one method")
        common = {"device": device} if device else {}
        super().__init__(**settings[0], **common)
        arguments = [parse_arguments({**cell, **common}) for cell in settings]
        for cell, given in zip(settings, arguments, strict=True):
            first = arguments[0]
            if _shared(given) != _shared(first):
                raise ValueError(
                    f"{cells}: {cell} has another model, other frames or another batch size than {settings[0]}"
                )
        self.others = arguments[1:]

    def _lanes(self, session: Session) -> list[Lane]:
        """Make a lane for each cell, with a journal of its own."""
        lanes = super()._lanes(session)
        for arguments in self.others:
            built = build(arguments, self._device, self.defaults)
            lanes.append(Lane(built, arguments.run, open_session(arguments.run, built.setup, None, self.rank)))
        return lanes


class ChatSweep(ChatKvtp, KvtpSweep):
    """Does so where tasks send chat messages."""

    family: ClassVar[str | None] = None


def _shared(arguments: Arguments) -> tuple[object, ...]:
    """Give what cells must have in common: the model, and what it is shown."""
    return arguments.run.pretrained, arguments.run.batch_size, arguments.run.images, arguments.load, arguments.frames
