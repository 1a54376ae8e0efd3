"""Model ids for the other rows of the papers' tables, and for LLaVA-OneVision: a method with its defaults filled in.

`--model_args` overrides every default. What is not named is as in KVTP's own row: SigLIP as encoder, 20 % kept.
"""

from collections.abc import Mapping
from typing import ClassVar

from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.presets import PRESETS
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
