"""Sums over groups of rows, without copies of the rows and in a fixed order: equal on every run, on any device."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.device import send
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import chunks, pack, places, read, refuse
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

COLUMNS_AT_ONCE = 256
"""Columns of half-precision rows that stand in memory together in float32."""


@dataclass(frozen=True)
class Groups:
    """Which rows belong together, frame by frame and group by group."""

    members: Int[Tensor, " M"]
    """Row numbers, counted over all frames, sorted by group."""
    sizes: Int[Tensor, "f G"]
    """Rows of each group; groups may be empty."""


def group(owner: Int[Tensor, "f N"], num_groups: int, frames: Int[Tensor, " f"]) -> Groups:
    """Group the rows of some frames by the number of the group that owns them, in [0, num_groups).

    `frames` are the numbers of these frames among those that rows are counted over.
    """
    count, capacity = owner.shape
    local = torch.arange(count, device=owner.device)[:, None]
    order = owner.argsort(dim=1, stable=True)
    sizes = tally((owner + local * num_groups).flatten(), count * num_groups)
    return Groups((order + frames[:, None] * capacity).flatten(), sizes.reshape(count, num_groups))


def tally(numbers: Int[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Count how often each number in [0, count) stands there; `bincount` would wait for a GPU."""
    return numbers.new_zeros(count).scatter_add_(0, numbers, torch.ones_like(numbers))


def group_sums(
    rows: Float[Tensor, "F N C"], groups: Groups, weights: Float[Tensor, "F N"] | None = None
) -> Float[Tensor, "K C"]:
    """Sum the rows of each group, one frame's groups behind the other's, in float32; an empty group has 0."""
    sizes = groups.sizes.flatten()
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


def merge(
    tokens: FrameTokens,
    owner: Int[Tensor, "T N"],
    budgets: Int[Tensor, " T"],
    weights: Float[Tensor, "T N"] | None = None,
) -> PackedTokens:
    """Average the tokens of each frame that share an owner, or sum them with `weights` as factors.

    An owner is the patch at which the average stands, which owns itself, and of which frame t has `budgets[t]`; or
    DROPPED.
    """
    owner, ends = send(owner, tokens.embeds.device), [0, *budgets.cumsum(0).tolist()]
    stands = owner == torch.arange(owner.shape[1], device=owner.device)
    frame, patch = places(stands, ends[-1]).unbind(dim=1)
    embeds, size = (
        tokens.embeds.new_empty(len(frame), tokens.embeds.shape[2]),
        torch.zeros_like(frame, dtype=torch.float),
    )
    for part in chunks(owner):
        kept = slice(ends[part.start], ends[part.stop])
        factors, count = None if weights is None else weights[part], kept.stop - kept.start
        rows, size[kept] = means(tokens.embeds[part], owner[part], count, factors)
        embeds[kept] = rows.to(embeds.dtype)
    return PackedTokens(embeds, frame, patch, size, tokens.grid, tokens.num_frames, owner=numbered(owner))


def merge_video(
    tokens: FrameTokens, owner: Int[Tensor, " M"], weights: Float[Tensor, " M"] | None = None, count: int | None = None
) -> PackedTokens:
    """Average or sum tokens over all frames as `merge` does, with `count` owners, through the video, frame by frame."""
    cells, width = tokens.num_frames * tokens.capacity, tokens.embeds.shape[2]
    where = places(owner == torch.arange(cells, device=owner.device), count).flatten()
    every, factors = tokens.embeds.reshape(1, cells, width), None if weights is None else weights[None]
    rows, size = means(every, owner[None], len(where), factors)
    frame, patch = where // tokens.capacity, where % tokens.capacity
    into = numbered(owner[None]).reshape(tokens.num_frames, tokens.capacity)
    return PackedTokens(rows.to(tokens.embeds.dtype), frame, patch, size, tokens.grid, tokens.num_frames, owner=into)


def numbered(owner: Int[Tensor, "F N"]) -> Int[Tensor, "F N"]:
    """Turn owners, given as the cells at which kept tokens stand, into numbers of kept tokens through all frames."""
    stands = owner == torch.arange(owner.shape[1], device=owner.device)
    number = (stands.flatten().cumsum(0) - 1).reshape(owner.shape)
    return torch.where(owner == DROPPED, DROPPED, number.gather(1, owner.clamp_min(0)))


def means(
    embeds: Float[Tensor, "F N D"], owner: Int[Tensor, "F N"], count: int, weights: Float[Tensor, "F N"] | None = None
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """Average or weigh the tokens of each of `count` owners, owners in order, in float32; and count them."""
    number = numbered(owner).reshape(1, -1)  # what is dropped forms a last group, that of nobody
    groups = group(number.masked_fill(number == DROPPED, count), count + 1, torch.zeros_like(number[:, 0]))
    sizes, sums = groups.sizes[0, :count].float(), group_sums(embeds, groups, weights)[:count]
    return sums if weights is not None else sums.div_(sizes[:, None]), sizes


@dataclass(frozen=True)
class EnrichingPruner(TokenPruner):
    """LLaVA-PruMerge's step: each kept token takes up its neighbours. Pruners differ in which tokens they keep."""

    needs: ClassVar[frozenset[str]] = frozenset({"probe_attention", "keys"})
    identity_at_full: ClassVar[bool] = False
    paper: ClassVar[str] = "LLaVA-PruMerge, arXiv 2403.15388"

    neighbours: int = 32
    """Tokens added to each kept one; a smaller frame adds all that it has."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.neighbours < 0:
            raise ValueError(f"neighbours={self.neighbours} must be >= 0")

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count all pairs of keys of a frame: 2 T N^2 C. Sums of neighbours are no matrix product, and left out."""
        frames, capacity, width = read(features, "keys", tokens).shape
        return frames * pairs_flops(capacity, capacity, width)


def enrich(
    tokens: FrameTokens,
    keep: Bool[Tensor, "T N"],
    budgets: Int[Tensor, " T"],
    attention: Float[Tensor, "T N"],
    keys: Float[Tensor, "T N C"],
    neighbours: int,
) -> PackedTokens:
    """Add to each of `budgets[t]` kept tokens the `neighbours` tokens of most similar keys, weighted by attention.

    ValueError where keys hold NaN.
    """
    ends = [0, *budgets.cumsum(0).tolist()]
    packed = pack(tokens, tokens.embeds, keep, ends[-1])
    broken, owner = torch.zeros_like(keep), torch.full(keep.shape, DROPPED, device=keep.device)
    cell = torch.arange(tokens.capacity, device=keep.device)
    down, across = (axis[:, None] - axis for axis in (cell // tokens.grid[1], cell % tokens.grid[1]))
    apart = down.square() + across.square()  # [N, N]
    for part in chunks(tokens.embeds):
        kept = slice(ends[part.start], ends[part.stop])
        frame, patch = packed.frame[kept] - part.start, packed.patch[kept]
        unit = F.normalize(keys[part].float(), dim=-1)
        cosines = (unit @ unit.transpose(1, 2))[frame, patch]  # [K, N]
        broken[packed.frame[kept], patch] = torch.isnan(cosines).any(dim=1)
        cosines.scatter_(1, patch[:, None], -torch.inf)  # a token is not its own neighbour
        near = cosines.topk(min(neighbours, tokens.capacity - 1), dim=1).indices
        rows = _enriched(tokens.embeds[part], attention[part], near, frame, patch)
        packed.embeds[kept] = rows.to(packed.embeds.dtype)
        owner[part] = _owners(owner[part], near, frame, patch, apart[patch].gather(1, near), kept.start)
    refuse(broken, "keys")  # once, behind the loop: a GPU is waited for
    return replace(packed, owner=owner)


def _enriched(
    embeds: Float[Tensor, "F N D"],
    attention: Float[Tensor, "F N"],
    near: Int[Tensor, "K n"],
    frame: Int[Tensor, " K"],
    patch: Int[Tensor, " K"],
) -> Float[Tensor, "K D"]:
    members = torch.cat([patch[:, None], near], dim=1) + frame[:, None] * embeds.shape[1]
    weights = torch.cat([attention.new_ones(len(near), 1), attention[frame[:, None], near]], dim=1)
    rows = embeds.flatten(0, 1).float()
    return F.embedding_bag(members, rows, mode="sum", per_sample_weights=weights)


def _owners(
    owner: Int[Tensor, "F N"],
    near: Int[Tensor, "K n"],
    frame: Int[Tensor, " K"],
    patch: Int[Tensor, " K"],
    apart: Int[Tensor, "K n"],
    first: int,
) -> Int[Tensor, "F N"]:
    """Find the kept token, counted from `first`, that each token is a neighbour of: the closest, as all weigh it alike.

    Kept tokens own themselves; what is nobody's neighbour keeps its entry in `owner`.
    """
    count, cells = max(1, len(patch)), frame * owner.shape[1]
    numbers = torch.arange(len(patch), device=patch.device)
    order = apart * count + numbers[:, None]  # of two equally close ones the earlier
    nobody = torch.full((owner.numel(),), torch.iinfo(order.dtype).max, device=owner.device)
    closest = nobody.scatter_reduce(0, (near + cells[:, None]).flatten(), order.flatten(), "amin")
    found = torch.where(closest < nobody, closest % count + first, owner.flatten())
    return found.scatter(0, cells + patch, numbers + first).reshape(owner.shape)
