"""FlashVID's steps: what is selected in each frame, trees of alike tokens through a scene, and their clusters."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.parts.density_peaks import density_peaks, gram_pairs, pairs_of
from lmms_kvtp.pruners.parts.groups import DROPPED, Groups, group_sums, means
from lmms_kvtp.pruners.parts.packing import check, chunks, read, refuse_nan
from lmms_kvtp.pruners.parts.scenes import ScenePruner, cut, join, mean_tokens
from lmms_kvtp.pruners.parts.spread import distances, farthest
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class TreePruner(ScenePruner):
    """FlashVID's steps, which pruners/flashvid.py tells: selection in each frame, trees through a scene, clusters."""

    needs: ClassVar[frozenset[str]] = frozenset({"column_attention"})
    twice: ClassVar[bool] = False
    """A selected token can be selected again, and be a cluster's centre in a scene of one frame."""

    salient: float = 0.7
    """Part of a frame's budget, rounded up, that is selected and not merged."""
    selection: Literal["attn_div_v2", "attn_div"] = "attn_div_v2"
    """attn_div: selection without relevance."""
    tree_threshold: float = 0.8
    """Cosine that a joint exceeds."""
    neighbours: int = 7
    """Neighbors that count for density in density-peak clustering, at most as many as clusters."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        super().__post_init__()
        if not 0 <= self.salient <= 1:
            raise ValueError(f"salient={self.salient} is outside [0, 1]; it is a part of the budget")

    @abstractmethod
    def clusters(self, trees: Int[Tensor, " L"], count: int) -> Int[Tensor, " L"]:
        """Give each frame of a scene its share of `count` clusters, in proportion to its trees, which are no fewer."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Select tokens of each frame, and merge what else a scene shows."""
        check(tokens, budgets)
        attention, embeds = read(features, "column_attention", tokens).float(), tokens.embeds
        refuse_nan(attention, "attention")
        frames, capacity, width = embeds.shape
        averages = mean_tokens(embeds)
        lengths = cut(averages, self.scenes, self.scene_threshold)
        num_salient = (budgets * self.salient).double().round(decimals=9).ceil().long()
        picked = self._select(embeds, attention, averages, lengths, num_salient)
        salient = torch.zeros_like(attention, dtype=torch.bool)
        salient.view(-1)[picked] = True
        scenes = zip(*(torch.split(each, lengths) for each in (embeds, salient, budgets, num_salient)), strict=True)
        made = [self._merge(scene, chosen, int(b.sum()), int((b - s).sum())) for scene, chosen, b, s in scenes]
        stands, rows, owners, compared = zip(*made, strict=True)
        starts = [capacity * sum(lengths[:scene]) for scene in range(len(lengths))]
        cells = torch.cat([picked, *(cell + start for cell, start in zip(stands, starts, strict=True))])
        order = cells.argsort(stable=True)
        cells, owner = cells[order], join(owners)
        into = torch.where(owner == DROPPED, DROPPED, torch.searchsorted(cells, owner.clamp_min(0)))
        return PackedTokens(
            torch.cat([embeds.flatten(0, 1)[picked], *(row.to(embeds.dtype) for row in rows)])[order],
            cells // capacity,
            cells % capacity,
            torch.bincount(into[owner != DROPPED], minlength=len(cells)).clamp_min(1).float(),
            tokens.grid,
            frames,
            owner=into.reshape(frames, capacity),
            flops=pairs_flops(1, frames * gram_pairs(capacity) + sum(compared), width),
        )

    def _select(
        self,
        embeds: Float[Tensor, "T N D"],
        attention: Float[Tensor, "T N"],
        averages: Float[Tensor, "T D"],
        lengths: list[int],
        counts: Int[Tensor, " T"],
    ) -> Int[Tensor, " S"]:
        """Find the cells of selected tokens, in the order of selection, frame by frame."""
        weights = attention
        if self.selection == "attn_div_v2":
            scenes = zip(torch.split(embeds, lengths), torch.split(averages, lengths), strict=True)
            weights = attention * torch.cat([_relevance(*scene) for scene in scenes])
        apart = distances(embeds).mul_(weights[:, None])  # of a candidate, the column, from each other token
        frames, capacity = attention.shape
        nearest = apart.mT.topk(min(2, capacity), largest=False).values[..., -1]
        every = torch.arange(frames, device=embeds.device)
        again = self.twice and self.selection == "attn_div_v2"
        order = farthest(nearest, lambda chosen: apart[every, chosen], int(counts.max()), again)
        steps = torch.arange(order.shape[1], device=embeds.device)
        return (every[:, None] * capacity + order)[steps < counts.to(embeds.device)[:, None]]

    def _merge(
        self, scene: Float[Tensor, "L N D"], salient: Bool[Tensor, "L N"], total: int, count: int
    ) -> tuple[Int[Tensor, " K"], Float[Tensor, "K D"], Int[Tensor, " M"], int]:
        """Merge what is not selected of a scene into about `count` of its `total` tokens.

        Returns:
            Cells of the scene at which averages stand, the averages, the cell at which each token stands, and the
            number of pairs of tokens that were compared.
        """
        length, capacity = salient.shape
        owner = torch.arange(salient.numel(), device=scene.device)
        rest = torch.nonzero(~salient.flatten()).flatten()
        if not count:
            return rest[:0], scene.new_empty(0, scene.shape[2]), owner.index_fill(0, rest, DROPPED), 0
        parent, joined = self._joints(scene, salient, total)
        for frame in range(1, length):
            here = joined[(joined >= frame * capacity) & (joined < (frame + 1) * capacity)]
            owner[here] = owner[parent[here]]  # earlier frames know their roots
        children = torch.bincount(parent[joined], minlength=len(owner))
        roots = torch.unique(owner[rest]) if length > 1 else owner
        tree = torch.searchsorted(roots, owner[rest])
        if length > 1:
            groups = Groups(rest[tree.argsort(stable=True)], torch.bincount(tree, minlength=len(roots))[None])
            trees = group_sums(scene, groups).div_(1 + children[roots, None])
        else:
            trees = scene[0].float()
        barred = salient[0] if length == 1 and not self.twice else torch.zeros_like(roots, dtype=torch.bool)
        centre, compared = self._cluster(trees, roots // capacity, barred, count)
        stands = torch.where(centre == DROPPED, DROPPED, roots[centre])
        at = torch.unique(stands[stands != DROPPED])
        rows, _ = means(trees[None], centre[None], len(at))
        owner[rest] = stands[tree]
        return at, rows, owner, compared + (length - 1) * capacity**2

    def _cluster(
        self, trees: Float[Tensor, "n D"], frame: Int[Tensor, " n"], barred: Bool[Tensor, " n"], count: int
    ) -> tuple[Int[Tensor, " n"], int]:
        """Find the tree in whose place each tree's cluster stands, and count the pairs that were compared.

        A barred tree is no centre; where all others stay, it goes nowhere.
        """
        sizes = torch.bincount(frame)
        centre, start, compared = torch.arange(len(trees), device=trees.device).masked_fill(barred, DROPPED), 0, 0
        for size, num in zip(sizes.tolist(), self.clusters(sizes.cpu(), count).tolist(), strict=True):
            part = slice(start, start + size)
            if not num:
                centre[part] = DROPPED
            elif num < size - int(barred[part].sum()):
                found = density_peaks(trees[part], num, min(self.neighbours, num), barred=barred[part])
                centre[part] = found + start
                compared += pairs_of(size)
            start += size
        return centre, compared

    def _joints(
        self, scene: Float[Tensor, "L N D"], salient: Bool[Tensor, "L N"], total: int
    ) -> tuple[Int[Tensor, " M"], Int[Tensor, " j"]]:
        """Find each token's most similar one of the frame before, salient ones left out, and which tokens join it."""
        capacity, count = scene.shape[1], salient.numel()
        parent = torch.zeros(count, dtype=torch.int64, device=scene.device)
        alike = torch.full((count,), -torch.inf, device=scene.device)
        before = F.normalize(scene[0].float(), dim=1)
        for frame in range(1, len(scene)):
            unit = F.normalize(scene[frame].float(), dim=1)
            cosines = (unit @ before.T).masked_fill(salient[frame - 1], -torch.inf)
            best = cosines.masked_fill(salient[frame][:, None], -torch.inf).max(dim=1)
            cells = slice(frame * capacity, (frame + 1) * capacity)
            parent[cells], alike[cells] = best.indices + (frame - 1) * capacity, best.values
            before = unit
        joined = torch.nonzero(alike > self.tree_threshold).flatten()
        if len(joined) > count - total:
            least = max(float(alike.topk(count - total).values[-1]), -1 + 1e-6) if total < count else torch.inf
            joined = torch.nonzero(alike > least).flatten()
        return parent, joined


def _relevance(scene: Float[Tensor, "L N D"], averages: Float[Tensor, "L D"]) -> Float[Tensor, "L N"]:
    """Score the relevance of each token to its scene."""
    mean = averages.mean(dim=0)
    return torch.cat([scene[part].float() @ mean for part in chunks(scene)])
