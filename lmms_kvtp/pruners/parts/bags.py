"""Sums over groups of rows, without copies of the rows and in a fixed order: equal on every run, on any device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

COLUMNS_AT_ONCE = 256
"""Columns of half-precision rows that stand in memory together in float32."""


@dataclass(frozen=True)
class Groups:
    """Which rows belong together, frame by frame and group by group."""

    members: Int[Tensor, " M"]
    """Row numbers, counted over all frames, sorted by group."""
    sizes: Int[Tensor, "f G"]
    """Rows of each group; groups may be empty."""

    @property
    def filled(self) -> Bool[Tensor, "f G"]:
        """Groups that have rows."""
        return self.sizes > 0


def group(owner: Int[Tensor, "f N"], num_groups: int, frames: Int[Tensor, " f"]) -> Groups:
    """Group the rows of some frames by the number of the group that owns them.

    Args:
        owner: group of each row, in [0, num_groups).
        num_groups: of a frame.
        frames: which of the frames of the rows these are.
    """
    count, capacity = owner.shape
    local = torch.arange(count, device=owner.device)[:, None]
    order = owner.argsort(dim=1, stable=True)
    sizes = torch.bincount((owner + local * num_groups).flatten(), minlength=count * num_groups)
    return Groups((order + frames[:, None] * capacity).flatten(), sizes.reshape(count, num_groups))


def group_sums(
    rows: Float[Tensor, "F N C"], groups: Groups, weights: Float[Tensor, "F N"] | None = None
) -> Float[Tensor, "K C"]:
    """Sum the rows of each group that has any, in float32."""
    sizes = groups.sizes[groups.filled]
    factors = None if weights is None else weights.flatten()[groups.members]
    flat, starts = rows.flatten(0, 1), sizes.cumsum(0) - sizes

    def add(columns: Float[Tensor, "M c"]) -> Float[Tensor, "K c"]:
        return F.embedding_bag(groups.members, columns.float(), starts, mode="sum", per_sample_weights=factors)

    if flat.dtype == torch.float32:
        return add(flat)
    sums = torch.empty(len(sizes), flat.shape[1], device=flat.device)
    for part, columns in zip(*(torch.split(table, COLUMNS_AT_ONCE, 1) for table in (sums, flat)), strict=True):
        part.copy_(add(columns))
    return sums
