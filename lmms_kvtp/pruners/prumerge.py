"""PruMerge as KVTP uses it: salient tokens, each enriched with its nearest neighbours."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.groups import DROPPED
from lmms_kvtp.pruners.parts.packing import check, chunks, pack, read, refuse, top
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class PruMerge(TokenPruner):
    """Keeps the tokens of highest attention and adds to each its neighbours, weighted by their attention.

    Neighbours are the tokens, kept or not, whose keys have the highest cosine with that of the kept one. Nothing is
    normalised, as published, so even a frame that keeps all of its tokens changes.

    Source: LLaVA-PruMerge (arXiv 2403.15388) at a fixed ratio, with the pooling head's attention and input in place of
    the class token's, and without the extra token that sums up the dropped ones: the form of KVTP (arXiv 2503.10742).
    PruMerge+ is `spaced=0.5`. Its release may draw a spaced token twice; here they are distinct, so that budgets are
    exact.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probe_attention", "keys"})
    identity_at_full: ClassVar[bool] = False
    paper: ClassVar[str] = "LLaVA-PruMerge, arXiv 2403.15388"

    neighbours: int = 32
    """Tokens added to each kept one; a smaller frame adds all that it has."""
    spaced: float = 0.0
    """Part of the budget, rounded down, that goes to evenly spaced tokens in place of salient ones."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.neighbours < 0:
            raise ValueError(f"neighbours={self.neighbours} must be >= 0")
        if not 0 <= self.spaced <= 1:
            raise ValueError(f"spaced={self.spaced} is outside [0, 1]; it is a part of the budget")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t, in raster order."""
        check(tokens, budgets)
        attention, keys = read(features, "probe_attention", tokens).float(), read(features, "keys", tokens)
        num_spaced = (budgets * self.spaced).long()
        keep = top(attention, budgets - num_spaced)
        if self.spaced:
            keep = keep | comb(~keep, num_spaced.to(keep.device))
        return enrich(tokens, keep, attention, keys, self.neighbours)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count all pairs of keys of a frame: 2 T N^2 C. Sums of neighbours are no matrix product, and left out."""
        frames, capacity, width = read(features, "keys", tokens).shape
        return frames * pairs_flops(capacity, capacity, width)


def comb(free: Bool[Tensor, "T N"], count: Int[Tensor, " T"]) -> Bool[Tensor, "T N"]:
    """Mark `count[t]` of the free tokens of each frame, evenly spaced in raster order."""
    total = free.sum(dim=1, keepdim=True)
    rank = free.cumsum(dim=1) - 1
    # teeth stand in the middles of `count` equal parts of the free tokens
    part = (2 * rank + 1) * count[:, None] // (2 * total).clamp_min(1)
    middle = torch.div((2 * part + 1) * total, (2 * count[:, None]).clamp_min(1), rounding_mode="floor")
    return free & (rank == middle) & (count[:, None] > 0)


def enrich(
    tokens: FrameTokens,
    keep: Bool[Tensor, "T N"],
    attention: Float[Tensor, "T N"],
    keys: Float[Tensor, "T N C"],
    neighbours: int,
) -> PackedTokens:
    """Add to each kept token the `neighbours` tokens of most similar keys, weighted by their attention.

    Raises:
        ValueError: keys hold NaN.
    """
    packed = pack(tokens, tokens.embeds, keep)
    ends = [0, *packed.counts().cumsum(0).tolist()]
    broken, owner = torch.zeros_like(keep), torch.full(keep.shape, DROPPED, device=keep.device)
    cell = torch.arange(tokens.capacity, device=keep.device)
    down, across = (axis[:, None] - axis for axis in (cell // tokens.grid[1], cell % tokens.grid[1]))
    apart = down.square() + across.square()  # [N, N]
    for part in chunks(tokens.embeds):
        kept = slice(ends[part.start], ends[part.stop])
        frame, patch = packed.frame[kept] - part.start, packed.patch[kept]
        cosines = _cosines(keys[part], frame, patch)
        broken[packed.frame[kept], patch] = torch.isnan(cosines).any(dim=1)
        cosines.scatter_(1, patch[:, None], -torch.inf)  # a token is not its own neighbour
        near = cosines.topk(min(neighbours, tokens.capacity - 1), dim=1).indices
        rows = _enriched(tokens.embeds[part], attention[part], near, frame, patch)
        packed.embeds[kept] = rows.to(packed.embeds.dtype)
        owner[part] = _owners(owner[part], near, frame, patch, apart[patch].gather(1, near), kept.start)
    refuse(broken, "keys")  # once, behind the loop: a GPU is waited for
    return replace(packed, owner=owner)


def _cosines(keys: Float[Tensor, "F N C"], frame: Int[Tensor, " K"], patch: Int[Tensor, " K"]) -> Float[Tensor, "K N"]:
    unit = F.normalize(keys.float(), dim=-1)
    return (unit @ unit.transpose(1, 2))[frame, patch]


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
