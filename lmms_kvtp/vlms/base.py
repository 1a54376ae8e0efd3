"""The interface of vision-language back ends, and how they are loaded."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmms_kvtp.cost.flops import LLMShape, MergedShape, VisionShape
from lmms_kvtp.layer_pruning.base import Stage
from lmms_kvtp.resolve import resolve
from lmms_kvtp.types import (
    FrameTokens,
    Generation,
    GenerationOptions,
    GridPool,
    PackedTokens,
    Positions,
    Prompt,
    Timing,
)
from lmms_kvtp.video.frames import Frames, TowerInside
from lmms_kvtp.video.pixels import PixelSpec
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.load_options import FAMILY_OPTIONS, LoadOptions
from lmms_kvtp.vlms.reading import PrefixCache
from lmms_kvtp.vlms.tiles import Tiling

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from lmms_kvtp.vlms.layout import Chat


class PromptTooLongError(ValueError):
    """A prompt does not fit in the model's context; nothing was cut from it."""

    def __init__(self, length: int, limit: int, text_tokens: int) -> None:
        """Name the lengths and the ways out.

        Args:
            length: prompt positions wanted.
            limit: positions that the model has.
            text_tokens: how many of `length` are text.
        """
        super().__init__(
            f"the prompt has {length} positions ({text_tokens} of text), the model's limit is {limit}; "
            "lower keep_ratio or max_frames_num, or set too_long=fewer_frames"
        )
        self.length, self.limit, self.text_tokens = length, limit, text_tokens


class VideoVLM(ABC):
    """A vision-language model that answers questions about packed vision tokens."""

    family: ClassVar[str]
    """The `model_type` of its checkpoints, and the name of its file; `llava_video` has several."""
    own_options: ClassVar[frozenset[str]] = frozenset()
    """Fields of `LoadOptions` that this family reads, of those that not all do."""
    run_defaults: ClassVar[Mapping[str, Any]] = {}
    """Arguments of a run where the family's stock wrapper has other defaults than LLaVA-Video's."""
    positions: ClassVar[tuple[Positions, ...]] = ("renumbered", "kept", "evs")
    """Rotary positions that a pruned prompt may have, the default first."""
    axes: ClassVar[int] = 1
    """Axes of a rotary position."""
    frames_per_step: ClassVar[int] = 1
    """Frames that the tower reads as one; a frame in the words of scorers, budgets and pruners is such a step."""

    name: str
    """Folder or hub id, as results have it."""
    device: torch.device
    dtype: torch.dtype
    options: LoadOptions
    network: nn.Module
    """All modules with weights."""
    decoder: Any
    """The language model with its head, whose `generate` decodes."""
    layers: Sequence[nn.Module]
    """Decoder layers of the language model, in order."""
    rotary: nn.Module
    """The module that turns positions into cosines and sines."""
    tokenizer: "PreTrainedTokenizerBase"
    chat: "Chat"
    """Marks of the chat, and how plain text becomes ids."""
    defaults: "GenerationConfig"
    """The checkpoint's decoding settings."""
    llm: LLMShape
    vision: VisionShape | MergedShape
    """Sizes of the tower."""
    default_encoder: str
    """Checkpoint of the image-text encoder that belongs to this model."""
    toy: bool = False
    """Whether it is the embedded model, whose numbers illustrate the mechanism and nothing else."""
    files: Sequence[Path]
    """Files of its weights; none where they were drawn."""
    limit: int
    """Positions of the longest prompt."""
    tiling: Tiling | None = None
    """The model's own way with images; None where it has none."""

    @property
    def frames(self) -> FrameOptions:
        """Which frames of a video the model sees by default."""
        known = {option.name for option in fields(FrameOptions)}
        return FrameOptions(**{name: value for name, value in self.run_defaults.items() if name in known})

    def check(self, positions: Positions) -> None:
        """Refuse rotary positions that the model cannot have.

        ValueError names those that it has.
        """
        if positions not in self.positions:
            raise ValueError(f"positions={positions} is not of {self.family}, which has {', '.join(self.positions)}")

    @classmethod
    def wrap(cls, model: Any, processor: Any, options: LoadOptions) -> "VideoVLM":
        """Take a model that transformers has loaded, which stays as it is.

        ValueError where the family is not read by a class of transformers.
        """
        raise ValueError(f"{cls.family} is loaded from a folder or hub id; give its name in place of a model")

    @classmethod
    @abstractmethod
    def load(cls, pretrained: str, options: LoadOptions) -> "VideoVLM":
        """Load a checkpoint of this family; raises as `load_vlm` does."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """List as plain values all that answers depend on beside method and frames."""

    @abstractmethod
    def spec(self, num_frames: int) -> PixelSpec:
        """Say what the tower wants of each frame of a video of which so many are shown."""

    @abstractmethod
    def pooling(self, height: int, width: int) -> GridPool:
        """Say how patches become tokens, in frames of so many pixels, as `spec` made them."""

    @abstractmethod
    def vision_flops(self, pool: GridPool, steps: int) -> tuple[int, int]:
        """Count the operations of the tower, and of what projects, on so many steps (see `lmms_kvtp.cost.flops`)."""

    def watch_tower(self) -> AbstractContextManager[list[TowerInside]]:
        """Collect what the last layer of the tower computes while a `with` block runs `look`; complete when it ends.

        ValueError where this model's tower cannot be watched.
        """
        raise ValueError(f"encoder=own: the tower of {type(self).__name__} cannot be watched; choose encoder=siglip")

    @abstractmethod
    def look(self, frames: Frames, spec: PixelSpec) -> tuple[FrameTokens, Float[Tensor, "T P C"]]:
        """Run tower, projector and pooling on one chunk of frames: tokens, and the tower's patches, row by row."""

    def unpooled(self, frames: Frames) -> Float[Tensor, "T P D"]:
        """Run tower and projector alone: patches of an image's tiles. Models without `tiling` have no such way."""
        raise NotImplementedError(f"{type(self).__name__} has no tiles")

    @final
    def encode(self, frames: Frames) -> FrameTokens:
        """Run tower, projector and pooling on one chunk of frames, which are the whole video."""
        made, _ = self.look(frames, self.spec(len(frames.times)))
        return replace(made, timing=Timing.of(frames.times))

    @abstractmethod
    def assemble(self, visuals: Sequence[PackedTokens], text: str, positions: Positions | None = None) -> Prompt:
        """Lay out the model's chat prompt: visuals with what stands between them, then `text`.

        Text is never read as markup: `<image>` or `<|im_end|>` inside it are plain characters.

        Args:
            visuals: what is kept of each.
            text: the user's words.
            positions: kept: every place has the rotary position of the prompt in which all tokens are kept; None: the
                family's default.

        Raises:
            PromptTooLongError: the prompt does not fit in the context.
            ValueError: `text` is empty, or a visual is none that the family knows.
        """

    @final
    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions,
        stages: Sequence[Stage] = (),
        prefix: PrefixCache | None = None,
    ) -> list[Generation]:
        """Decode an answer to each prompt, while `stages` drop vision tokens between the layers.

        Several prompts are one batch when decoding is greedy and nothing is dropped; otherwise they are answered one
        after the other: draws, beams and stages belong to one prompt.

        Args:
            prompts: one batch, where the other arguments allow it.
            options: how answers are decoded.
            stages: with any, prompts are answered one at a time.
            prefix: keys and values of the prompt before; prompts are then answered one at a time, and each leaves its
                own.

        Raises:
            ValueError: stages that do not fit the model.
        """
        from lmms_kvtp.vlms.decoding import generate  # which loads transformers

        return generate(self, prompts, options, stages, prefix)

    @cached_property
    def settings(self) -> "Callable[[GenerationOptions], GenerationConfig]":
        """Decoding settings by options, kept: a run has few, and transformers' configurations are slow to make."""
        from lmms_kvtp.vlms.decoding import settings

        return lru_cache(16)(partial(settings, self.defaults, self.chat.end, self.chat.pad))

    @final
    @torch.inference_mode()
    def next_token_logits(self, prompt: Prompt, stages: Sequence[Stage] = ()) -> Float[Tensor, " V"]:
        """Compute the logits of the first answer token, for gates and comparisons; the head runs there only."""
        from lmms_kvtp.vlms.decoding import next_token_logits

        return next_token_logits(self, prompt, stages)


def back_end(family: str) -> type[VideoVLM]:
    """Find the back end of a family: a file beside this one, or an entry point of the group `lmms_kvtp.vlms`."""
    return resolve("lmms_kvtp.vlms", family, VideoVLM)  # type: ignore[type-abstract]


def load_vlm(pretrained: Any, options: LoadOptions | None = None, processor: Any = None) -> VideoVLM:
    """Load a checkpoint with the back end of its family.

    Args:
        pretrained: folder, hub id, `tiny` for the embedded model, or a model that transformers has loaded.
        options: how it is loaded and run.
        processor: of a loaded model.

    Raises:
        CheckpointError: there is no such checkpoint, or its family is not supported; the message says what was found.
        ValueError: an option that another family has.
    """
    from lmms_kvtp.vlms.checkpoint.load import family_of, find_folder

    options = options or LoadOptions()
    loaded = not isinstance(pretrained, str)
    family = pretrained.config.model_type if loaded else family_of(find_folder(pretrained, options.revision))
    chosen = back_end(family)
    for other in fields(LoadOptions):
        value = getattr(options, other.name)
        if other.name in FAMILY_OPTIONS - chosen.own_options and value != other.default:
            known = ", ".join(sorted(chosen.own_options))
            raise ValueError(f"{other.name}={value} is not of {chosen.family}, which has {known}; leave it out")
    return chosen.wrap(pretrained, processor, options) if loaded else chosen.load(pretrained, options)
