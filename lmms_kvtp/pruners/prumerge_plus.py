"""PruMerge+: salient tokens and an even comb over the frame."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import TokenPruner, check, read, top
from lmms_kvtp.pruners.parts.neighbours import enrich
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class PruMergePlus(TokenPruner):
    """Keeps the tokens of highest attention and, of the others, evenly spaced ones; all take up their neighbours.

    Source: LLaVA-PruMerge (arXiv 2403.15388), PruMerge+, as PruMerge here. Its release draws as many spaced tokens as
    salient ones at a fixed ratio, and may draw one twice; here they are distinct, so that budgets are exact.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probe_attention", "keys"})
    identity_at_full: ClassVar[bool] = False
    paper: ClassVar[str] = "LLaVA-PruMerge, arXiv 2403.15388"

    neighbours: int = 32
    """Tokens added to each kept one; a smaller frame adds all that it has."""
    spaced: float = 0.5
    """Part of the budget, rounded down, that goes to evenly spaced tokens."""

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
        salient = top(attention, budgets - num_spaced)
        keep = salient | comb(~salient, num_spaced.to(salient.device))
        return enrich(tokens, keep, attention, keys, self.neighbours)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """All pairs of keys of a frame: 2 T N^2 C, as PruMerge."""
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
