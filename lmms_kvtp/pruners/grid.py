"""Evenly spread tokens: the control that knows nothing but position."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check, pack
from lmms_kvtp.pruners.parts.spread import lattice
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class Grid(TokenPruner):
    """Keeps cells on a lattice that has the proportions of the frame, unchanged.

    Where the budget does not fill a lattice, rows differ by one cell. Lattices of different budgets are not nested.
    """

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` evenly spread cells of frame t."""
        check(tokens, budgets)
        lattices = {budget: lattice(budget, *tokens.grid) for budget in set(budgets.tolist())}
        keep = torch.stack([lattices[budget] for budget in budgets.tolist()])
        return pack(tokens, tokens.embeds, keep, int(budgets.sum()))
