"""Sums over groups of rows, without copies of the rows and in a fixed order: equal on every run, on any device."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.pruners.parts.packing import chunks
from lmms_kvtp.types import FrameTokens, PackedTokens

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
        num_groups: groups of one frame.
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


DROPPED = -1
"""Owner of a token that goes into no average."""


def merge(tokens: FrameTokens, owner: Int[Tensor, "T N"], weights: Float[Tensor, "T N"] | None = None) -> PackedTokens:
    """Average the tokens of each frame that share an owner, or sum them by weights.

    Args:
        tokens: never changed.
        owner: the patch at which each token's average stands, which owns itself; or DROPPED.
        weights: factor of each token in a sum that replaces the average.
    """
    frame, patch = torch.nonzero(owner == torch.arange(owner.shape[1], device=owner.device), as_tuple=True)
    embeds, size = tokens.embeds.new_empty(len(frame), tokens.embeds.shape[2]), torch.zeros(len(frame)).to(frame.device)
    start = 0
    for part in chunks(owner):
        rows, sizes = means(tokens.embeds[part], owner[part], None if weights is None else weights[part])
        embeds[start : start + len(rows)], size[start : start + len(rows)] = rows.to(embeds.dtype), sizes
        start += len(rows)
    return PackedTokens(embeds, frame, patch, size, tokens.grid, tokens.num_frames, owner=numbered(owner))


def merge_video(
    tokens: FrameTokens, owner: Int[Tensor, " M"], weights: Float[Tensor, " M"] | None = None
) -> PackedTokens:
    """Average tokens over all frames, or sum them by weights.

    Args:
        tokens: never changed.
        owner: as in `merge`, with tokens counted through the video, frame by frame.
        weights: factor of each token in a sum that replaces the average.
    """
    cells, width = tokens.num_frames * tokens.capacity, tokens.embeds.shape[2]
    rows, size = means(tokens.embeds.reshape(1, cells, width), owner[None], None if weights is None else weights[None])
    where = torch.nonzero(owner == torch.arange(cells, device=owner.device)).flatten()
    frame, patch = where // tokens.capacity, where % tokens.capacity
    into = numbered(owner[None]).reshape(tokens.num_frames, tokens.capacity)
    return PackedTokens(rows.to(tokens.embeds.dtype), frame, patch, size, tokens.grid, tokens.num_frames, owner=into)


def numbered(owner: Int[Tensor, "F N"]) -> Int[Tensor, "F N"]:
    """Turn owners, given as the cells at which kept tokens stand, into numbers of kept tokens through all frames."""
    stands = owner == torch.arange(owner.shape[1], device=owner.device)
    number = (stands.flatten().cumsum(0) - 1).reshape(owner.shape)
    return torch.where(owner == DROPPED, DROPPED, number.gather(1, owner.clamp_min(0)))


def means(
    embeds: Float[Tensor, "F N D"], owner: Int[Tensor, "F N"], weights: Float[Tensor, "F N"] | None = None
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """Average or weigh the tokens of each owner, owners in order, in float32; and count them."""
    nobody = owner.shape[1]
    groups = group(
        owner.masked_fill(owner == DROPPED, nobody), nobody + 1, torch.arange(len(owner), device=owner.device)
    )
    owned = groups.filled & (torch.arange(nobody + 1, device=owner.device) < nobody)
    sizes = groups.sizes[owned].float()
    sums = group_sums(embeds, groups, weights)[owned[groups.filled]]
    return sums if weights is not None else sums.div_(sizes[:, None]), sizes
