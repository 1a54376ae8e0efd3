"""FastVID: salient tokens of each frame, and anchors that merge what else a scene shows."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import largest_remainder
from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.parts.density_peaks import peak_scores
from lmms_kvtp.pruners.parts.groups import DROPPED, merge_video
from lmms_kvtp.pruners.parts.packing import check, chunks, read, top
from lmms_kvtp.pruners.parts.scenes import ScenePruner, join
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class FastVid(ScenePruner):
    """Keeps each frame's most attended tokens, and density peaks of every few frames that take up all others.

    Scenes end where consecutive frames differ most. In a scene every `interval`-th frame holds anchors, in equal
    numbers; each token that is neither salient nor anchor goes to the most similar anchor of its scene, which becomes
    a weighted sum of itself and the mean of those. A scene keeps exactly the budgets of its frames; anchors beyond
    what their frames can hold are given back to the scene as salient tokens.

    Source: FastVID (arXiv 2503.11187), section 3.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image", "probe_attention"})
    paper: ClassVar[str] = "FastVID, arXiv 2503.11187"

    context: float = 0.4
    """Part of the budget, rounded to the nearest token, that goes to anchors."""
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
        lengths = self.cut(read(features, "image", tokens))
        shares = [self._share(part, tokens.capacity) for part in torch.split(budgets, lengths)]
        salient = top(attention, torch.cat([share for share, _ in shares]))
        anchors = self._anchors(embeds, salient, torch.cat([count for _, count in shares]))
        scenes = zip(*(torch.split(part, lengths) for part in (embeds, salient, anchors)), strict=True)
        owners, weights = zip(*(self._absorb(*scene) for scene in scenes), strict=True)
        packed = merge_video(tokens, join(owners), torch.cat(weights))
        compared = sum(_compared(salient, anchors, tokens.capacity) for salient, anchors in shares)
        return replace(packed, flops=pairs_flops(1, compared, embeds.shape[2]))

    def _share(self, budgets: Int[Tensor, " L"], capacity: int) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        """Share a scene's budgets among salient tokens and anchors of its frames."""
        context = (budgets * self.context + 0.5).long()
        salient, holders = budgets - context, torch.arange(len(budgets)) % self.interval == 0
        room = torch.where(holders, capacity - salient, 0)
        anchors = largest_remainder(holders.double(), min(int(context.sum()), int(room.sum())), room)
        excess = int(context.sum() - anchors.sum())
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
        self, embeds: Float[Tensor, "L N D"], salient: Bool[Tensor, "L N"], anchors: Bool[Tensor, "L N"]
    ) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
        """Find the token of a scene that each token goes to, and its weight there."""
        count, device, free = salient.numel(), embeds.device, ~(salient | anchors)
        holds, others = torch.nonzero(anchors.flatten()).flatten(), free.flatten()
        owner, weight = torch.arange(count, device=device), torch.ones(count, device=device)
        if not len(holds):
            return owner.masked_fill(others, DROPPED), weight
        units = F.normalize(embeds[anchors].float(), dim=1).T
        nearest = [
            (F.normalize(embeds[part][free[part]].float(), dim=1) @ units).argmax(dim=1) for part in chunks(embeds)
        ]
        owner[others] = holds[torch.cat(nearest)]
        members = torch.bincount(owner[others], minlength=count).float()  # of each anchor, itself left out
        own = torch.where(members > 0, (1 / (members + 1)).clamp_min(self.anchor_weight), 1.0)
        weight[holds] = own[holds]
        weight[others] = ((1 - own) / members.clamp_min(1))[owner[others]]
        return owner, weight


def _compared(salient: Int[Tensor, " L"], anchors: Int[Tensor, " L"], capacity: int) -> int:
    """Count compared pairs of a scene: all but salient tokens in frames with anchors, and the rest with anchors."""
    free, held = capacity - salient, int(anchors.sum())
    return int(free[anchors > 0].square().sum()) + int(free.sum() - held) * held
