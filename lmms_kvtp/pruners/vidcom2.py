"""VidCom2: the tokens that are unlike their frame and unlike the video."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.pruners.base import ScorePruner, chunks
from lmms_kvtp.types import FrameFeatures, FrameTokens


@dataclass(frozen=True)
class VidCom2(ScorePruner):
    """Keeps the tokens of least similarity to the mean token of the video and of their frame.

    Similarity is a sum of Gaussian kernels of several widths, on unit vectors of the channels that vary least.

    Source: VidCom2 (arXiv 2505.14454), without its budgets of frames: these come from an allocator.
    """

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

    def score(self, tokens: FrameTokens, features: FrameFeatures) -> Float[Tensor, "T N"]:
        """Unlikeness to video and frame."""
        steady = self._steady(tokens.embeds)
        frame_means = torch.stack([_unit(frame, steady).mean(dim=0) for frame in tokens.embeds])
        scores = [
            self._likeness(_unit(tokens.embeds[part], steady), frame_means.mean(dim=0), frame_means[part])
            for part in chunks(tokens.num_frames)
        ]
        return -torch.cat(scores)

    def _steady(self, embeds: Float[Tensor, "T N D"]) -> Tensor:
        """The channels of lowest variance, in order; sums are taken chunk by chunk around the mean."""
        count = embeds.shape[0] * embeds.shape[1]
        parts = list(chunks(len(embeds)))
        mean = torch.stack([embeds[part].sum(dim=(0, 1), dtype=torch.float32) for part in parts]).sum(dim=0) / count
        spread = torch.stack([(embeds[part].float() - mean).square().sum(dim=(0, 1)) for part in parts]).sum(dim=0)
        kept = max(int(self.channels * len(spread)), 1)
        return spread.argsort(stable=True)[:kept].sort().values

    def _likeness(
        self, unit: Float[Tensor, "F N c"], video_mean: Float[Tensor, " c"], frame_means: Float[Tensor, "F c"]
    ) -> Float[Tensor, "F N"]:
        distances = [(unit - mean).square().sum(dim=2) for mean in (video_mean, frame_means[:, None])]
        return torch.stack([torch.exp(-d / (2 * a)) for d in distances for a in self.widths]).sum(dim=0)


def _unit(embeds: Float[Tensor, "*shape D"], channels: Tensor) -> Float[Tensor, "*shape c"]:
    return F.normalize(embeds[..., channels].float(), dim=-1)
