"""VidCom2's frame weights: how unlike the video a frame is."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.pruners.parts.likeness import frame_means, likeness, steady, unit
from lmms_kvtp.pruners.parts.packing import chunks
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.types import FrameFeatures


@dataclass(frozen=True)
class VidCom2(FrameScorer):
    """A frame counts by how little its tokens are like the mean token of the video; the question plays no part.

    Source: VidCom2 (arXiv 2505.14454), section 3.2; `allocator=vidcom2` makes its budgets of this.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    query_aware: ClassVar[bool] = False
    paper: ClassVar[str] = "VidCom2, arXiv 2505.14454"

    channels: float = 0.5
    """Part of the channels that is compared: those of lowest variance over the video."""
    widths: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    """The a in exp(-distance^2 / (2 a))."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels={self.channels} is outside (0, 1]; it is a part of the channels")
        if not self.widths or min(self.widths) <= 0:
            raise ValueError(f"widths={self.widths} must be positive numbers, at least one")

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """The mean unlikeness of each frame's tokens, negative: less likeness is more."""
        assert features.tokens is not None
        tokens = features.tokens
        channels = steady(tokens, self.channels)
        video = frame_means(tokens, channels).mean(dim=0)
        parts = [unit(tokens[part], channels) for part in chunks(tokens)]
        return -torch.cat([likeness(part, video, self.widths).mean(dim=1) for part in parts])
