"""How much tokens are like a mean token, as VidCom2 measures it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.pruners.parts.packing import chunks


@dataclass(frozen=True)
class LikenessSettings:
    """Settings of VidCom2's scorer and pruner: which channels are compared, and how."""

    channels: float = 0.5
    """Part of the channels that is compared: those of lowest variance over the video."""
    widths: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    """Widths a of the kernels exp(-distance^2 / (2 a))."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels={self.channels} is outside (0, 1]; it is a part of the channels")
        if not self.widths or min(self.widths) <= 0:
            raise ValueError(f"widths={self.widths} must be positive numbers, at least one")


def steady(embeds: Float[Tensor, "T N D"], share: float) -> Int[Tensor, " c"]:
    """Find the `share` in (0, 1] of channels, at least one, that vary least over the video, in order.

    Sums are taken chunk by chunk around the mean.
    """
    count = embeds.shape[0] * embeds.shape[1]
    parts = list(chunks(embeds))
    mean = torch.stack([embeds[part].sum(dim=(0, 1), dtype=torch.float32) for part in parts]).sum(dim=0) / count
    spread = torch.stack([(embeds[part].float() - mean).square().sum(dim=(0, 1)) for part in parts]).sum(dim=0)
    kept = max(int(share * len(spread)), 1)
    return spread.argsort(stable=True)[:kept].sort().values


def unit(embeds: Float[Tensor, "*shape D"], channels: Int[Tensor, " c"]) -> Float[Tensor, "*shape c"]:
    """Take some channels of tokens, as vectors of length 1."""
    return F.normalize(embeds[..., channels].float(), dim=-1)


def frame_means(embeds: Float[Tensor, "T N D"], channels: Int[Tensor, " c"]) -> Float[Tensor, "T c"]:
    """Average the unit vectors of each frame."""
    return torch.cat([unit(embeds[part], channels).mean(dim=1) for part in chunks(embeds)])


def likeness(
    tokens: Float[Tensor, "F N c"], mean: Float[Tensor, "*frames c"], widths: tuple[float, ...]
) -> Float[Tensor, "F N"]:
    """Sum exp(-distance^2 / (2 a)) over the widths a, for the distance to one mean or to the mean of each frame."""
    distances = (tokens - mean[..., None, :]).square().sum(dim=2)
    return torch.stack([torch.exp(-distances / (2 * width)) for width in widths]).sum(dim=0)
