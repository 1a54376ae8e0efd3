"""FastVID: salient tokens of each frame, and anchors that merge what else a scene shows."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import largest_remainder
from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.parts.density_peaks import pairs_of, peak_scores
from lmms_kvtp.pruners.parts.groups import DROPPED, Groups, group_sums, numbered
from lmms_kvtp.pruners.parts.packing import check, chunks, pack, read, top
from lmms_kvtp.pruners.parts.scenes import ScenePruner, cut, join
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class FastVid(ScenePruner):
    """Keeps each frame's most attended tokens, and density peaks of every few frames that take up all others.

    Scenes end where consecutive frames differ most. In a scene the last frame, and every `interval`-th before it, holds
    anchors, in equal numbers. All tokens of the scene that are neither salient nor anchors of that frame go to the most
    similar anchor of that frame, once for each such frame; an anchor becomes a weighted sum of itself and the mean of
    those. A scene keeps exactly the budgets of its frames; anchors beyond what their frames can hold are given back to
    the scene as salient tokens.

    Source: FastVID (arXiv 2503.11187) as released for LLaVA-Video.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image", "probe_attention"})
    paper: ClassVar[str] = "FastVID, arXiv 2503.11187"

    context: float = 0.4
    """Part of a scene's budget, rounded down, that goes to anchors."""
    interval: int = 4
    """Frames from one that holds anchors to the next."""
    anchor_weight: float = 0.6
    """Least weight of an anchor in its sum; the mean of n tokens and the anchor gives it 1 / (n + 1)."""
    neighbours: int = 4
    """Neighbors that count for the density by which anchors are chosen."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        super().__post_init__()
        if not (0 <= self.context <= 1 and 0 <= self.anchor_weight <= 1):
            raise ValueError(f"context={self.context} and anchor_weight={self.anchor_weight} must be within [0, 1]")
        if self.interval < 1:
            raise ValueError(f"interval={self.interval} must be at least 1")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many tokens of each scene as its frames have budgets."""
        check(tokens, budgets)
        attention, embeds = read(features, "probe_attention", tokens).float(), tokens.embeds
        lengths = cut(read(features, "image", tokens), self.scenes, self.scene_threshold)
        shares = [self._share(part, tokens.capacity) for part in torch.split(budgets, lengths)]
        salient = top(attention, torch.cat([share for share, _ in shares]))
        anchors = self._anchors(embeds, salient, torch.cat([count for _, count in shares]))
        keep, members = salient | anchors, torch.ones_like(attention)
        packed, made, owners = pack(tokens, embeds, keep, int(budgets.sum())), [], []
        for part in zip(*(torch.split(each, lengths) for each in (embeds, salient, anchors, members)), strict=True):
            rows, owner = self._absorb(*part)
            made.append(rows)
            owners.append(owner)
        packed.embeds[anchors[keep]] = torch.cat(made).to(embeds.dtype)
        compared = sum(_compared(salient, anchors, tokens.capacity) for salient, anchors in shares)
        return replace(
            packed,
            size=members[keep],
            owner=numbered(join(owners)[None]).reshape(keep.shape),
            flops=pairs_flops(1, compared, embeds.shape[2]),
        )

    def _share(self, budgets: Int[Tensor, " L"], capacity: int) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        """Share a scene's budgets among salient tokens and anchors of its frames."""
        context = int(int(budgets.sum()) * self.context)
        salient = largest_remainder(budgets.double(), int(budgets.sum()) - context, capacity)
        holders = torch.arange(len(budgets)) % self.interval == 0  # from the last frame on, as are the next two
        room = torch.where(holders, capacity - salient.flip(0), 0)
        anchors = largest_remainder(holders.double(), min(context, int(room.sum())), room).flip(0)
        excess = context - int(anchors.sum())
        return salient + largest_remainder(budgets.double(), excess, capacity - salient - anchors), anchors

    def _anchors(
        self, embeds: Float[Tensor, "T N D"], salient: Bool[Tensor, "T N"], counts: Int[Tensor, " T"]
    ) -> Bool[Tensor, "T N"]:
        anchors = torch.zeros_like(salient)
        for frame in torch.nonzero(counts).flatten().tolist():
            rest = torch.nonzero(~salient[frame]).flatten()
            scores = peak_scores(embeds[frame, rest], self.neighbours)
            anchors[frame, rest[scores.argsort(descending=True, stable=True)[: int(counts[frame])]]] = True
        return anchors

    def _absorb(
        self,
        embeds: Float[Tensor, "L N D"],
        salient: Bool[Tensor, "L N"],
        anchors: Bool[Tensor, "L N"],
        members: Float[Tensor, "L N"],
    ) -> tuple[Float[Tensor, "A D"], Int[Tensor, " M"]]:
        """Compute the anchors of a scene, and add to `members` how many tokens each takes up.

        Also find the token that each one goes to, of several the most similar.
        """
        capacity, owner = embeds.shape[1], torch.arange(salient.numel(), device=embeds.device)
        holds, free = torch.nonzero(anchors.flatten()).flatten(), torch.nonzero(~salient.flatten()).flatten()
        if not len(holds):
            return embeds.new_empty(0, embeds.shape[2]), owner.index_fill(0, free, DROPPED)
        units = F.normalize(embeds[anchors].float(), dim=1).T
        frames, counts = torch.unique_consecutive(holds // capacity, return_counts=True)
        ends, best = counts.cumsum(0).tolist(), []
        for part in chunks(embeds):
            tokens = embeds[part].float()
            cosines = (tokens @ units / tokens.norm(dim=2, keepdim=True).clamp_min(1e-12))[~salient[part]]
            best.append([cosines[:, start:end].max(dim=1) for start, end in pairwise([0, *ends])])
        alike, into = (
            torch.cat([torch.stack([getattr(each, name) for each in part], dim=1) for part in best])
            for name in ("values", "indices")
        )
        into += counts.cumsum(0) - counts  # [free, frames with anchors]
        held = anchors.flatten()[free]
        nearest = into.gather(1, alike.argmax(dim=1, keepdim=True))[~held, 0]
        owner[free[~held]] = holds[nearest]
        elsewhere = ~(held[:, None] & (free[:, None] // capacity == frames))
        into, rows = into[elsewhere], free[:, None].expand_as(into)[elsewhere]
        groups = Groups(rows[into.argsort(stable=True)], torch.bincount(into, minlength=len(holds))[None])
        taken = groups.sizes[0][:, None]
        own = torch.where(taken > 0, (1 / (taken + 1)).clamp_min(self.anchor_weight), 1.0)
        made = own * embeds[anchors].float() + (1 - own) / taken.clamp_min(1) * group_sums(embeds, groups)
        members[anchors] += taken[:, 0]
        return made, owner


def _compared(salient: Int[Tensor, " L"], anchors: Int[Tensor, " L"], capacity: int) -> int:
    """Count compared pairs of a scene: all but salient tokens in frames with anchors, and all tokens with anchors."""
    free = (capacity - salient)[anchors > 0]
    return sum(map(pairs_of, free.tolist())) + capacity * len(salient) * int(anchors.sum())
