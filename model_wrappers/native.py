"""Harness models of families that transformers has a class for: rows are `method=...` and other arguments, not ids."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from lmms_eval.api.instance import GenerationResult

from lmms_kvtp.harness.requests import read_turn
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.model_wrappers.sweep import KvtpSweep
from lmms_kvtp.run.asks import flatten, read_visuals


class ChatKvtp(LlavaVideoKvtp):
    """A model to which tasks send chat messages, as to the stock wrappers of these families."""

    is_simple = False

    def _told(self, request: Any, doc: Mapping[str, Any]) -> tuple[str, Callable[[], list[Any]], Mapping[str, Any]]:
        """Read the text and the videos of the messages; like the stock wrappers, stop at no text that a task names."""
        prompt, to_messages, settings, *_ = request.args
        typed = {name: value for name, value in settings.items() if name != "until" or name in self._typed}
        try:
            turns = read_visuals(to_messages, doc)
        except FileNotFoundError as error:  # raised again when the question's turn has come
            return prompt, partial(_fail, error), typed
        prompt, visuals = read_turn(turns)
        return prompt, partial(flatten, visuals), typed

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Refused: such tasks send chat messages turn by turn."""
        tasks = ", ".join(sorted({request.task_name for request in requests}))
        raise NotImplementedError(f"{tasks} holds conversations, which this model does not; llava_video_kvtp does")


class Qwen25VLKvtp(ChatKvtp):
    """Qwen2.5-VL with pruned vision tokens."""

    family: ClassVar[str | None] = "qwen2_5_vl"
    pretrained: ClassVar[str] = "Qwen/Qwen2.5-VL-3B-Instruct"


class Qwen3VLKvtp(ChatKvtp):
    """Qwen3-VL with pruned vision tokens."""

    family: ClassVar[str | None] = "qwen3_vl"
    pretrained: ClassVar[str] = "Qwen/Qwen3-VL-4B-Instruct"


class InternVLKvtp(ChatKvtp):
    """InternVL3 and InternVL3.5 with pruned vision tokens."""

    family: ClassVar[str | None] = "internvl"
    pretrained: ClassVar[str] = "OpenGVLab/InternVL3_5-8B-HF"


class NativeSweep(ChatKvtp, KvtpSweep):
    """Answers for all cells of a sweep, as `KvtpSweep` does."""

    family: ClassVar[str | None] = None


def _fail(error: Exception) -> list[Any]:
    raise error
