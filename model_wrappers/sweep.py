"""The harness model `kvtp_sweep`: one pass over the videos answers for many methods, into their journals.

Runs of `llava_video_kvtp` that resume from these journals then find every answer; `lmms-kvtp sweep` starts both.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from lmms_eval.utils import simple_parse_args_string
from tqdm import tqdm

from lmms_kvtp.encode import Encoded
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.harness.results import open_session
from lmms_kvtp.method import Method
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.answerer import make_answerer
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.build import build
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.looking import look_at
from lmms_kvtp.run.options import Arguments, Images, parse_arguments
from lmms_kvtp.run.ranks import Place
from lmms_kvtp.video.ahead.ahead import Ahead, decode_ahead
from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM


class KvtpSweep(LlavaVideoKvtp):
    """Answers as the first of its methods; what the others answer is in their journals."""

    def __init__(self, cells: str, batch_size: Any = 1, device: str | None = None) -> None:
        """Load the model once, and all methods.

        Args:
            cells: a JSON file: a list of `--model_args`, which differ in the method and the journal.
            batch_size: of the harness; the cells have their own.
            device: for all cells.

        Raises:
            ValueError: the cells do not share model and frames, or their number is 0.
        """
        settings = [simple_parse_args_string(given) for given in json.loads(Path(cells).read_text(encoding="utf-8"))]
        if not settings:
            raise ValueError(f"{cells} holds no cells: give at least one method")
        common = {"device": device} if device else {}
        super().__init__(**settings[0], **common)
        arguments = [parse_arguments({**cell, **common}) for cell in settings]
        for cell, given in zip(settings, arguments, strict=True):
            first = arguments[0]
            if _shared(given) != _shared(first):
                raise ValueError(f"{cells}: {cell} has another model or other frames than {settings[0]}")
        self.others = arguments[1:]

    def _answer_all(self, session: Session, asks: Mapping[Place, Ask]) -> Iterator[tuple[Place, Answer]]:
        """Video by video, and on each one method after the other."""
        arguments = [self.arguments, *self.others]
        built = [self.built, *(build(given, self._device, self.defaults) for given in self.others)]
        sessions = [session]
        sessions += [
            open_session(given.run, own.setup, None, self.rank)
            for given, own in zip(self.others, built[1:], strict=True)
        ]
        sharing = Counter(ask.visuals for ask in asks.values())
        first = {ask.visuals: number for number, ask in reversed(list(enumerate(asks.values())))}
        order = sorted(asks, key=lambda place: first[asks[place].visuals])
        new = [asks[place] for place in order if not all(record.has(asks[place]) for record in sessions)]
        with (
            decode_ahead(self.arguments.run.ahead, self.arguments.frames, (ask.visuals for ask in new)) as ahead,
            tqdm(total=len(order) * len(built), desc="Answering", disable=self.rank != 0) as bar,
        ):
            methods, run = [own.method for own in built], self.arguments.run
            looks = Looks(self.built.vlm, methods, self.arguments.frames, ahead, run.cache, run.images)
            answerers = [
                make_answerer(given, replace(own, method=looks.methods[number]), record, looks.of(number))
                for number, (given, own, record) in enumerate(zip(arguments, built, sessions, strict=True))
            ]
            for _, group in groupby(order, key=lambda place: asks[place].visuals):
                places = list(group)
                for number, answerer in enumerate(answerers):
                    size = arguments[number].run.batch_size
                    for start in range(0, len(places), size):
                        batch = places[start : start + size]
                        made = list(answerer.answer([asks[place] for place in batch], sharing))
                        bar.update(len(made))
                        if number == 0:
                            yield from zip(batch, made, strict=True)


def _shared(arguments: Arguments) -> tuple[object, ...]:
    """What cells have in common: model, and what it is shown."""
    return arguments.run.pretrained, arguments.run.images, arguments.load, arguments.frames


class Looks:
    """The last video, encoded once for all methods."""

    def __init__(
        self,
        vlm: VideoVLM,
        methods: Sequence[Method],
        frames: FrameOptions,
        ahead: Ahead | None = None,
        cache: FrameCache | None = None,
        images: Images = "frames",
    ) -> None:
        """Begin with nothing encoded; equal encoders become one, so that their weights load once."""
        same: dict[FrameEncoder, FrameEncoder] = {}
        self.methods = [replace(m, encoder=same.setdefault(m.encoder, m.encoder)) for m in methods]
        self.vlm, self.frames = vlm, frames
        self._ahead, self._cache, self._images = ahead, cache, images
        self._visuals: tuple[str, ...] | None = None
        self._encoded: list[list[Encoded]] = []

    def of(self, number: int) -> Callable[[Ask], list[Encoded]]:
        """What encodes the videos of a question for one of the methods."""
        return partial(self._look, number)

    def _look(self, number: int, ask: Ask) -> list[Encoded]:
        if ask.visuals != self._visuals:
            self._visuals, self._encoded = None, []  # frees the last video before the next is encoded
            self._encoded = look_at(self.vlm, self.methods, ask, self._images, self.frames, self._ahead, self._cache)
            self._visuals = ask.visuals
        return [video[number] for video in self._encoded]
