"""The interface of vision-language back ends."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmms_kvtp.cost.flops import LLMShape, VisionShape
from lmms_kvtp.layer_pruning.base import Stage
from lmms_kvtp.types import FrameTokens, Generation, GenerationOptions, GridPool, PackedTokens, Positions, Prompt
from lmms_kvtp.video.frames import Frames, TowerInside
from lmms_kvtp.video.pixels import PixelSpec
from lmms_kvtp.vlms.prefix import PrefixCache
from lmms_kvtp.vlms.tiles import Tiling


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

    name: str
    """Folder or hub id, as results have it."""
    device: torch.device
    pixel_spec: PixelSpec
    pool: GridPool
    vision: VisionShape
    llm: LLMShape
    default_encoder: str
    """Checkpoint of the image-text encoder that belongs to this model."""
    toy: bool
    """Whether it is the embedded model, whose numbers illustrate the mechanism and nothing else."""
    files: Sequence[Path]
    """Files of its weights; none where they were drawn."""
    limit: int
    """Positions of the longest prompt."""
    tiling: Tiling | None
    """The model's own way with images; None where it has none."""

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers of the language model, in order."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """List as plain values all that answers depend on beside method and frames."""

    def watch_tower(self) -> AbstractContextManager[list[TowerInside]]:
        """Collect what the last layer of the tower computes while a `with` block runs `see`; complete when it ends.

        Raises:
            ValueError: this model's tower cannot be watched.
        """
        raise ValueError(f"encoder=own: the tower of {type(self).__name__} cannot be watched; choose encoder=siglip")

    @abstractmethod
    def see(self, frames: Frames) -> Float[Tensor, "T P C"]:
        """Run the vision tower on one chunk of frames: features of its patches, row by row."""

    @abstractmethod
    def project(self, patches: Float[Tensor, "T P C"]) -> FrameTokens:
        """Run projector and pooling on what `see` returned."""

    @abstractmethod
    def unpooled(self, patches: Float[Tensor, "T P C"]) -> Float[Tensor, "T P D"]:
        """Run the projector alone on what `see` returned: patches of an image's tiles."""

    @final
    def encode(self, frames: Frames) -> FrameTokens:
        """Run tower, projector and pooling on one chunk of frames."""
        return self.project(self.see(frames))

    @abstractmethod
    def assemble(self, visuals: Sequence[PackedTokens], text: str, positions: Positions = "renumbered") -> Prompt:
        """Lay out the model's chat prompt: visuals with their newlines, then `text`.

        Text is never read as markup: `<image>` or `<|im_end|>` inside it are plain characters.

        Args:
            visuals: what is kept of each.
            text: the user's words.
            positions: kept: every place has the rotary position of the prompt in which all tokens are kept.

        Raises:
            PromptTooLongError: the prompt does not fit in the context.
            ValueError: `text` is empty.
        """

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions,
        stages: Sequence[Stage] = (),
        prefix: PrefixCache | None = None,
    ) -> list[Generation]:
        """Decode an answer to each prompt, while `stages` drop vision tokens between the layers.

        Args:
            prompts: one batch, where the other arguments allow it.
            options: how answers are decoded.
            stages: with any, prompts are answered one at a time.
            prefix: keys and values of the prompt before; prompts are then answered one at a time, and each leaves its
                own.

        Raises:
            ValueError: stages that do not fit the model.
        """

    @abstractmethod
    def next_token_logits(self, prompt: Prompt, stages: Sequence[Stage] = ()) -> Float[Tensor, " V"]:
        """Compute the logits of the first answer token, for gates and comparisons."""
