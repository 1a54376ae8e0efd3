"""How much tokens are like a mean token, as VidCom2 measures it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
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


def steady(embeds: Float[Tensor, "T N D"], share: float) -> Float[Tensor, " D"]:
    """Mark with 1 the `share` in (0, 1] of channels, at least one, that vary least over the video.

    Sums are taken chunk by chunk around the mean.
    """
    count = embeds.shape[0] * embeds.shape[1]
    mean = torch.stack([_total(rows) for _, rows in _copies(embeds)]).sum(dim=0) / count
    spread = torch.stack([_total(rows.sub_(mean).square_()) for _, rows in _copies(embeds)]).sum(dim=0)
    kept = spread.argsort(stable=True)[: max(int(share * len(spread)), 1)]
    return torch.zeros_like(spread).index_fill_(0, kept, 1.0)


@dataclass(frozen=True)
class Directions:
    """Tokens as unit vectors of the marked channels, without writing them down: their lengths, and frames' means."""

    embeds: Float[Tensor, "T N D"]
    lengths: Float[Tensor, "T N"]
    means: Float[Tensor, "T D"]
    """Average unit vector of each frame; 0 in channels that are not marked."""

    @classmethod
    def of(cls, embeds: Float[Tensor, "T N D"], channels: Float[Tensor, " D"]) -> "Directions":
        """Measure tokens in the channels marked with 1."""
        squares = [(rows.square_() @ channels[:, None])[..., 0] for _, rows in _copies(embeds)]
        lengths = torch.cat(squares).sqrt().clamp_min(1e-12)
        weights = lengths.reciprocal()[:, None] / embeds.shape[1]
        means = [(weights[part] @ embeds[part].float())[:, 0] for part in chunks(embeds)]
        return cls(embeds, lengths, torch.cat(means) * channels)

    def likeness(self, widths: tuple[float, ...], to_video: bool) -> Float[Tensor, "T N"]:
        """Sum exp(-distance^2 / (2 a)) over the widths a, for the distance to the video's mean, or to each frame's."""
        means = self.means.mean(dim=0, keepdim=True).expand_as(self.means) if to_video else self.means
        dots = [(means[part][:, None] @ self.embeds[part].float().mT)[:, 0] for part in chunks(self.embeds)]
        squares = self.lengths.gt(1e-12) + means.square().sum(dim=1, keepdim=True)
        distances = squares - 2 * torch.cat(dots) / self.lengths
        return torch.stack([torch.exp(-distances / (2 * width)) for width in widths]).sum(dim=0)


def _copies(embeds: Float[Tensor, "T N D"]) -> Iterator[tuple[slice, Float[Tensor, "F N D"]]]:
    """Copy some frames at a time, in float32, to one place: new memory for each takes longer than what is computed."""
    place: Tensor | None = None
    for part in chunks(embeds):
        place = torch.empty_like(embeds[part], dtype=torch.float32) if place is None else place
        yield part, place[: len(embeds[part])].copy_(embeds[part])


def _total(tokens: Float[Tensor, "F N D"]) -> Float[Tensor, " D"]:
    flat = tokens.flatten(0, 1)
    return flat.new_ones(len(flat)) @ flat  # faster than a sum on one core
