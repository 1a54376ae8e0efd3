"""Evenly spread tokens: the control that knows nothing but position."""

from dataclasses import dataclass
from math import ceil, sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner, check, pack
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class Grid(TokenPruner):
    """Keeps cells on a lattice that has the proportions of the frame, unchanged.

    Where the budget does not fill a lattice, rows differ by one cell. Lattices of different budgets are not nested.
    """

    def prune(
        self,
        tokens: FrameTokens,
        features: FrameFeatures,
        budgets: Int[Tensor, " T"],
        relevance: Float[Tensor, " T"] | None = None,
    ) -> PackedTokens:
        """Keep `budgets[t]` evenly spread cells of frame t."""
        check(tokens, budgets)
        lattices = {budget: lattice(budget, *tokens.grid) for budget in set(budgets.tolist())}
        keep = torch.stack([lattices[budget] for budget in budgets.tolist()])
        return pack(tokens, tokens.embeds, keep.to(tokens.embeds.device))


def lattice(budget: int, rows: int, columns: int) -> Bool[Tensor, " N"]:
    """Mark `budget` evenly spread cells of a grid."""
    keep = torch.zeros(rows, columns, dtype=torch.bool)
    used = min(rows, max(round(sqrt(budget * rows / columns)), ceil(budget / columns), 1))
    for index, row in enumerate(_middles(used, rows)):
        keep[row, _middles((index + 1) * budget // used - index * budget // used, columns)] = True
    return keep.flatten()


def _middles(count: int, length: int) -> list[int]:
    """The middles of `count` equal parts of a line of `length` cells."""
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
