"""Sizes of models, without their weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.cost.flops import FRAME, LLMShape, TextShape, VisionShape, projector_flops, vision_flops
from lmms_kvtp.encoders.parts.siglip_config import SO400M, text_shape, vision_sizes
from lmms_kvtp.resolve import near
from lmms_kvtp.shipped import tiny_folder
from lmms_kvtp.types import GridPool, PackedTokens
from lmms_kvtp.video.pixels import ProcessorPixels, ResizedPixels
from lmms_kvtp.vlms.base import back_end
from lmms_kvtp.vlms.checkpoint.config import LlavaConfig, llm_shape, read_json, vision_shape
from lmms_kvtp.vlms.checkpoint.original import RELEASED, read_original
from lmms_kvtp.vlms.layout import Newlines, lay_out
from lmms_kvtp.vlms.load_options import LoadOptions
from lmms_kvtp.vlms.released import SIZES, Released, released

if TYPE_CHECKING:  # which loads transformers
    from lmms_kvtp.vlms.native import NativeVLM

SIGLIP = "google/siglip-so400m-patch14-384"
QWEN2_TOKENS = 151646
"""Entries of Qwen2's tokenizer; further rows of embeddings and head are dropped."""


@dataclass(frozen=True)
class Spec:
    """What costs depend on in a LLaVA-Video."""

    name: str
    config: LlavaConfig
    vocabulary: int
    default_encoder: str = SIGLIP
    """Image-text model that is used with it."""
    frames_per_step: ClassVar[int] = 1

    @property
    def vision(self) -> VisionShape:
        """Sizes of the tower."""
        return vision_shape(self.config)

    @property
    def llm(self) -> LLMShape:
        """Sizes of the language model."""
        return llm_shape(self.config, self.vocabulary)

    @property
    def newlines(self) -> Newlines:
        """Newlines as the checkpoint was trained."""
        return Newlines(self.config.newline_position, "auto", self.config.merge_type)

    @property
    def limit(self) -> int:
        """Positions of the longest prompt."""
        return self.config.limit

    def pool(self, mode: str | None = None) -> GridPool:
        """Pooling of patches by `mode`, or as the checkpoint was trained if that is None."""
        return GridPool(mode or self.config.pool_mode, (self.vision.side, self.vision.side))

    def spec(self, num_frames: int) -> ResizedPixels:
        """Say what the tower wants of each frame, however many there are."""
        return ResizedPixels((self.vision.image_size, self.vision.image_size))

    def vision_flops(self, pool: GridPool, steps: int) -> tuple[int, int]:
        """Count the operations of tower and projector."""
        return vision_flops(self.vision, steps), projector_flops(self.vision, self.llm, steps)

    def roles(self, packed: PackedTokens) -> Int[Tensor, " L"]:
        """Kinds of the places that stand for a video: its tokens, and newlines."""
        return lay_out(packed, torch.zeros(1), self.newlines).role

    @property
    def parameters(self) -> int:
        """Number of weights of tower, projector and language model, without biases and normalizations."""
        v, m = self.vision, self.llm
        tower = v.layers * (4 * v.hidden**2 + 2 * v.hidden * v.intermediate) + 3 * v.patch_size**2 * v.hidden
        attention = 2 * m.hidden * m.head_dim * (m.heads + m.kv_heads)
        layers = m.layers * (attention + 3 * m.hidden * m.intermediate)
        return tower + v.hidden * m.hidden + m.hidden**2 + layers + 2 * m.hidden * m.vocabulary


Sizes: TypeAlias = "Spec | Released | NativeVLM"
"""Sizes of a LLaVA-Video, or of a model that transformers has a class for: by name, or itself without weights."""


def pool_of(sizes: Sizes, mode: str | None, num_frames: int, size: Sequence[int] = FRAME) -> GridPool:
    """Say how patches become tokens: by `mode`, LLaVA-Video's alone (else ValueError), or in frames of `size`."""
    if isinstance(sizes, Spec):
        return sizes.pool(mode)
    if mode is not None:
        raise ValueError(f"pooling {mode} is LLaVA-Video's; {sizes.family} merges neighbours: leave it out")
    return sizes.pooling(*cast(ProcessorPixels, sizes.spec(num_frames)).target(*size))


KNOWN = {"llava-video-7b": (3584, 18944, 28, 28, 4), "llava-video-72b": (8192, 29568, 80, 64, 8)}
"""Released models, with the COLUMNS of Qwen2-7B-Instruct and Qwen2-72B-Instruct."""
COLUMNS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
HUB = {"lmms-lab/LLaVA-Video-7B-Qwen2": "llava-video-7b", "lmms-lab/LLaVA-Video-72B-Qwen2": "llava-video-72b"}


def find_sizes(name: str, options: LoadOptions | None = None) -> Sizes:
    """Sizes of a model of any family; raises as `find_spec` does."""
    if name in (*KNOWN, *HUB):
        return find_spec(name)
    options = options or LoadOptions()
    if known := released(name, options):
        return known
    from lmms_kvtp.vlms.checkpoint.load import family_named
    from lmms_kvtp.vlms.native import NativeVLM

    family = family_named(name, options.revision)
    if family in (None, "llava_video"):
        return find_spec(name)
    chosen = back_end(str(family))
    if not issubclass(chosen, NativeVLM):
        raise LookupError(f"no sizes of model {name!r}, which is of {family}; give one of a family of this package")
    return chosen.sized(name, options)


def find_spec(name: str) -> Spec:
    """Sizes of a released LLaVA-Video by short name or hub id, of a folder, or of `tiny`, the embedded model.

    LookupError has near matches of a name that is none of these, CheckpointError is of another kind of model.
    """
    short = HUB.get(name, name)
    if short in KNOWN:
        sizes = dict(zip(COLUMNS, KNOWN[short], strict=True))
        return Spec(name, read_original(read_json(RELEASED) | sizes, RELEASED.parent), QWEN2_TOKENS)
    folder = tiny_folder() if name == "tiny" else Path(name)
    if not folder.is_dir():
        known = [*KNOWN, *HUB, *read_json(SIZES), "tiny"]
        raise LookupError(f"no sizes of model {name!r}; {near(name, known)}, or give a folder")
    from lmms_kvtp.vlms.checkpoint.load import read_config

    config = read_config(folder)
    own = folder / "siglip"
    return Spec(name, config, int(config.llm["vocab_size"]), str(own) if own.is_dir() else SIGLIP)


@dataclass(frozen=True)
class Encoder:
    """What costs depend on in an image-text model."""

    vision: VisionShape
    text: TextShape
    positions: int
    """Positions of a text, padding included."""

    @property
    def parameters(self) -> int:
        """Number of weights of both towers, without embeddings, biases and normalizations."""
        v, t = self.vision, self.text
        return sum(s.layers * (4 * s.hidden**2 + 2 * s.hidden * s.intermediate) for s in (v, t))


SO400M_384 = Encoder(*SO400M, 64)
BASE_224 = Encoder(VisionShape(224, 16, 768, 3072, 12, 12), TextShape(768, 3072, 12, 768), 64)
"""Sizes of siglip-so400m-patch14-384 and siglip-base-patch16-224."""


def find_encoder(pretrained: str) -> Encoder | None:
    """Sizes of a SigLIP by its hub id or folder; None where they cannot be known without its files."""
    if pretrained == SIGLIP:
        return SO400M_384
    if not (Path(pretrained) / "config.json").is_file():
        return None
    from transformers import SiglipConfig

    config: Any = SiglipConfig(**read_json(Path(pretrained) / "config.json"))
    vision, text = config.vision_config.to_dict(), config.text_config
    return Encoder(vision_sizes(vision), text_shape(text), text.max_position_embeddings)
