"""SimpleCluster: clusters of all tokens of the video, on directions that know their place and time."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.device import send
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.groups import group, group_sums, merge_video, tally
from lmms_kvtp.pruners.parts.packing import check, chunks, pack, refuse_nan
from lmms_kvtp.pruners.parts.spread import lattice
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

ROWS_AT_ONCE = 2048
"""Tokens whose similarities to all clusters stand in memory together."""


@dataclass(frozen=True)
class SimpleCluster(TokenPruner):
    """Averages the tokens of each spherical k-means cluster of the whole video, one cluster per token of the total.

    Tokens are compared as unit vectors after a rotary embedding of frame, row and column, each over a third of the
    channels; averages are of the tokens as they were, and stand at the member that is most like its cluster.

    The paper gives neither the start nor the number of rounds. Here clusters start at a lattice of `budgets[t]` cells
    of frame t, so an allocator decides where in the video they start: equal budgets are the paper's method, KVTP's
    make its query-weighted form. A cluster that loses all its tokens restarts as the token that is least like its own.

    Source: SimpleCluster (September 2026; no identifier known).
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    conserves_mass: ClassVar[bool] = True
    paper: ClassVar[str] = "SimpleCluster, 2026"

    rounds: int = 3
    """Rounds of assigning tokens and moving clusters, before the last assignment."""
    mass: Literal["token", "budget"] = "token"
    """What a token weighs when its cluster moves: 1, or the budget of its frame."""
    base: float = 10_000.0
    """Base of the rotary embedding's wavelengths."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many clusters as all budgets together."""
        check(tokens, budgets)
        seeds = torch.stack([lattice(budget, *tokens.grid) for budget in budgets.tolist()])
        total = int(budgets.sum())
        if seeds.all() or not seeds.any():
            return pack(tokens, tokens.embeds, send(seeds, tokens.embeds.device), total)
        return merge_video(tokens, self._cluster(tokens, budgets, seeds), count=total)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count tokens by B clusters in each round and once more: 2 (rounds + 1) M B D; none where all are kept."""
        count, clusters = tokens.num_frames * tokens.capacity, int(budgets.sum())
        return (self.rounds + 1) * pairs_flops(count, clusters, tokens.embeds.shape[2]) if clusters < count else 0

    def _cluster(
        self, tokens: FrameTokens, budgets: Int[Tensor, " T"], seeds: Bool[Tensor, "T N"]
    ) -> Int[Tensor, " M"]:
        """Find the token at which each token's cluster stands."""
        unit = directions(tokens, self.base)
        weights = torch.ones(len(unit), device=unit.device)
        if self.mass == "budget":
            weights = send(budgets.float().repeat_interleave(tokens.capacity).clamp_min(1e-3), unit.device)
        centres = unit[send(torch.nonzero(seeds.flatten()).flatten(), unit.device)].float()
        for _ in range(self.rounds):
            cluster, _ = assign(unit, centres)
            members = group(cluster[None], len(centres), torch.zeros_like(cluster[:1]))
            moved = group_sums(unit[None], members, weights[None])
            moved /= moved.norm(dim=1, keepdim=True).clamp_min(1e-12)
            centres = torch.where(members.sizes[0, :, None] > 0, moved, centres)
        return owners(*assign(unit, centres), len(centres))


def directions(tokens: FrameTokens, base: float) -> Float[Tensor, "M D"]:
    """Rotate the tokens of all frames to unit vectors, in their own precision; ValueError where one is NaN."""
    unit = torch.empty_like(tokens.embeds)
    for part in chunks(tokens.embeds):
        rotated = rotate(tokens.embeds[part].float(), tokens.grid, base, part.start)
        unit[part] = rotated.div_(rotated.norm(dim=2, keepdim=True).clamp_min(1e-12))
    refuse_nan(unit.sum(dim=2), "tokens")
    return unit.flatten(0, 1)


def assign(unit: Float[Tensor, "M D"], centres: Float[Tensor, "B D"]) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
    """Find the most similar centre of each token, and how similar it is."""
    best = [(rows.float() @ centres.T).max(dim=1) for rows in torch.split(unit, ROWS_AT_ONCE)]
    return torch.cat([part.indices for part in best]), torch.cat([part.values for part in best])


def owners(cluster: Int[Tensor, " M"], likeness: Float[Tensor, " M"], count: int) -> Int[Tensor, " M"]:
    """Find the token at which each token's cluster stands: the member most like the cluster, the earlier of equals.

    Clusters without members become the tokens that are least like their own.
    """
    order = likeness.argsort(descending=True, stable=True)
    order = order[cluster[order].argsort(stable=True)]  # by cluster, most alike first
    sizes = tally(cluster, count)
    stands = order[(sizes.cumsum(0) - sizes).clamp_max(len(order) - 1)]  # of an empty cluster, a token of the next
    owner = stands[cluster]
    every = torch.arange(len(owner), device=owner.device)
    rank = likeness.masked_fill(owner == every, torch.inf).argsort(stable=True).argsort()
    return torch.where(rank < (sizes == 0).sum(), every, owner)


def rotate(
    embeds: Float[Tensor, "T N D"], grid: tuple[int, int], base: float, first_frame: int = 0
) -> Float[Tensor, "T N D"]:
    """Apply a rotary embedding of (frame, row, column); channels beyond three equal even parts stay as they are."""
    rows, columns = grid
    half = embeds.shape[2] // 6
    frame = (first_frame + torch.arange(len(embeds), device=embeds.device))[:, None].expand(-1, rows * columns)
    cell = torch.arange(rows * columns, device=embeds.device).expand(len(embeds), -1)
    speeds = base ** (-torch.arange(half, device=embeds.device) / max(half, 1))
    rotated = embeds.clone()
    for axis, position in enumerate((frame, cell // columns, cell % columns)):
        first, second = (slice((2 * axis + side) * half, (2 * axis + side + 1) * half) for side in (0, 1))
        angle = position[..., None] * speeds
        rotated[..., first] = embeds[..., first] * angle.cos() - embeds[..., second] * angle.sin()
        rotated[..., second] = embeds[..., second] * angle.cos() + embeds[..., first] * angle.sin()
    return rotated
