"""Model ids for the other rows of the papers' tables, and for other models: a method with its defaults filled in.

`--model_args` overrides every default. What is not named is as in KVTP's own row: SigLIP as encoder, 20 % kept.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from lmms_eval.api.instance import GenerationResult

from lmms_kvtp.harness.requests import read_turn
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.presets import PRESETS
from lmms_kvtp.run.asks import flatten, read_visuals
from lmms_kvtp.run.options import Images

EQUAL = PRESETS["uniform"]
"""An equal budget for every frame, whatever the question."""


class LlavaVideoFull(LlavaVideoKvtp):
    """All tokens: the base that every other row is compared with."""

    defaults: ClassVar[Mapping[str, str]] = {**EQUAL, "pruner": "none", "keep_ratio": "1"}


class LlavaVideoRandom(LlavaVideoKvtp):
    """Random tokens of each frame."""

    defaults: ClassVar[Mapping[str, str]] = {**EQUAL, "pruner": "random"}


class LlavaVideoToMe(LlavaVideoKvtp):
    """ToMe in each frame."""

    defaults: ClassVar[Mapping[str, str]] = {**EQUAL, "pruner": "tome"}


class LlavaVideoPruMerge(LlavaVideoKvtp):
    """PruMerge in each frame."""

    defaults: ClassVar[Mapping[str, str]] = {**EQUAL, "pruner": "prumerge"}


class LlavaVideoFastV(LlavaVideoKvtp):
    """FastV as published: all tokens enter, half of them go before layer 2."""

    defaults: ClassVar[Mapping[str, str]] = {**EQUAL, "pruner": "none", "keep_ratio": "1", "layer_pruning": "fastv"}


class LlavaVideoKeyVideoLLM(LlavaVideoKvtp):
    """KeyVideoLLM: the frames most similar to the question, whole; the last one keeps a lattice of what is left."""

    defaults: ClassVar[Mapping[str, str]] = {"scorer": "similarity", "allocator": "hard", "pruner": "grid"}


class LlavaVideoPruneVid(LlavaVideoKvtp):
    """PruneVid: half of the tokens enter, merged, and 0.4 of these stay behind layer 10, so 20 % from there on."""

    defaults: ClassVar[Mapping[str, str]] = {
        **EQUAL,
        "pruner": "prunevid",
        "keep_ratio": "0.5",
        "layer_pruning": "prunevid",
    }


class LlavaOnevisionKvtp(LlavaVideoKvtp):
    """LLaVA-OneVision with pruned vision tokens; KVTP with PruMerge where no other parts are named."""

    pretrained: ClassVar[str] = "lmms-lab/llava-onevision-qwen2-7b-ov"
    images: ClassVar[Images] = "tiles"


class ChatKvtp(LlavaVideoKvtp):
    """A model to which tasks send chat messages, as to the stock wrappers of these families."""

    is_simple = False

    def _told(self, request: Any, doc: Mapping[str, Any]) -> tuple[str, Callable[[], list[Any]], Mapping[str, Any]]:
        """Read the text and the videos of the messages; like the stock wrappers, stop at no text that a task names."""
        prompt, to_messages, settings, *_ = request.args
        typed = {name: value for name, value in settings.items() if name != "until" or name in self._typed}
        try:
            prompt, visuals = read_turn(read_visuals(to_messages, doc))
        except Exception as error:  # the boundary of one sample: raised here, or again when its turn has come
            if self.arguments.run.on_error == "raise" and not isinstance(error, FileNotFoundError):
                raise
            return prompt, partial(_fail, error), typed
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


def _fail(error: Exception) -> list[Any]:
    raise error
