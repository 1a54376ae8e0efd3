"""What config.json of a LLaVA checkpoint says, whatever its layout."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmms_kvtp import files
from lmms_kvtp.cost.flops import LLMShape, VisionShape
from lmms_kvtp.device import OutOfMemoryError
from lmms_kvtp.encoders.parts.siglip_config import SO400M, vision_sizes
from lmms_kvtp.files import loading
from lmms_kvtp.vlms.tiles import Tiling

SIZES, _ = SO400M
VISION = {
    "hidden_size": SIZES.hidden,
    "intermediate_size": SIZES.intermediate,
    "num_hidden_layers": SIZES.layers,
    "num_attention_heads": SIZES.heads,
    "num_channels": 3,
    "image_size": SIZES.image_size,
    "patch_size": SIZES.patch_size,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
"""Fields of SiglipVisionConfig as in google/siglip-so400m-patch14-384, the tower of every released checkpoint."""
LLM_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "vocab_size",
)
WANTED = (
    "wanted a LLaVA-Video or LLaVA-OneVision checkpoint on Qwen2, in its original layout (LlavaQwenForCausalLM) or "
    "Hugging Face's (LlavaOnevisionForConditionalGeneration)"
)


LARGEST = {"num_hidden_layers": 1000, "hidden_size": 2**17, "image_size": 2**13, "rope_theta": 10**12}
"""Sizes of a config.json that no model comes near to; of others 2**24."""
NO_SIZES = ("hidden_act", "tie_word_embeddings")
"""Fields that are no sizes."""


class CheckpointError(ValueError):
    """A folder holds no checkpoint that this package can read; the message says what was found and what was wanted."""


@dataclass(frozen=True)
class TensorNames:
    """One way to name the tensors of a network."""

    prefixes: Mapping[str, str]
    """How names in a checkpoint begin, by how the names in `Network` do."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of tensors that take no part: the model reads the tower before its last normalisation."""
        return tuple(f"{self.prefixes['tower.']}post_layernorm.{part}" for part in ("weight", "bias"))

    def name(self, own: str) -> str:
        """Name a tensor of `Network` as the checkpoint does."""
        ours, theirs = next(pair for pair in self.prefixes.items() if own.startswith(pair[0]))
        return theirs + own.removeprefix(ours)


@dataclass(frozen=True)
class LlavaConfig:
    """Sizes and switches of one checkpoint."""

    llm: dict[str, Any]
    """Fields of Qwen2Config."""
    vision: dict[str, Any]
    """Fields of SiglipVisionConfig, with all layers of the original tower."""
    pool_mode: str
    """How patches are pooled: see `GridPool`."""
    newline_position: str
    """Where newlines stand: see `Newlines`."""
    merge_type: str
    """`mm_patch_merge_type`: see `Newlines`."""
    limit: int
    """Positions of the longest prompt."""
    eos_token_id: int | None
    tensor_names: tuple[TensorNames, ...] = ()
    """Ways in which its tensors may be named."""
    markers: tuple[int, ...] = ()
    """Ids of the tokens that stand for an image or a video in a text, and that no answer holds."""
    tiling: Tiling | None = None
    """The model's own way with images; None where it has none, or one that does not fit its tower."""

    def vocabulary(self, entries: int) -> int:
        """Count the tokens that an answer may hold, of a tokenizer with so many entries: the last may be markers."""
        while entries - 1 in self.markers:
            entries -= 1
        return entries

    def __post_init__(self) -> None:
        """Refuse sizes that nobody can have meant, before anything is made of them."""
        for name, value in (*self.llm.items(), *self.vision.items()):
            most = LARGEST.get(name, 2**24)
            if name not in NO_SIZES and (type(value) not in (int, float) or not 0 <= value <= most):
                raise ValueError(f"its config has {name}={value!r}, wanted a number up to {most}")

    @property
    def vision_layers(self) -> int:
        """Number of tower layers that run: the model was trained on the output of the last but one."""
        return int(self.vision["num_hidden_layers"]) - 1


def reading(folder: Path, lack: str = "is no checkpoint") -> AbstractContextManager[None]:
    """Turn what odd values in the files of a checkpoint make libraries raise into one error that names the folder."""
    passed = (CheckpointError, MemoryError, OutOfMemoryError)
    return loading(f"{folder} {lack} that can be read", CheckpointError, passed, f"; {WANTED}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError if the file holds something else."""
    return files.read_json(path, dict, CheckpointError)


def vision_shape(config: LlavaConfig) -> VisionShape:
    """Read the sizes of the tower, for cost formulas."""
    return replace(vision_sizes(config.vision), layers=config.vision_layers)


def llm_shape(config: LlavaConfig, vocabulary: int) -> LLMShape:
    """Read the sizes of the language model, for cost formulas."""
    return LLMShape(
        hidden=config.llm["hidden_size"],
        intermediate=config.llm["intermediate_size"],
        layers=config.llm["num_hidden_layers"],
        heads=config.llm["num_attention_heads"],
        kv_heads=config.llm["num_key_value_heads"],
        head_dim=config.llm["hidden_size"] // config.llm["num_attention_heads"],
        vocabulary=vocabulary,
    )
