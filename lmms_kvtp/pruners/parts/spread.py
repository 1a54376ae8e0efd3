"""Tokens spread over a frame: distant from each other, or on a lattice of cells."""

from math import ceil, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.pruners.parts.packing import chunks, refuse_nan


def distances(embeds: Float[Tensor, "T N D"]) -> Float[Tensor, "T N N"]:
    """Compute 1 - cosine between the tokens of each frame.

    Raises:
        ValueError: a token is NaN.
    """
    parts = []
    for part in chunks(embeds):
        unit = F.normalize(embeds[part].float(), dim=-1)
        parts.append(1 - unit @ unit.transpose(1, 2))
    joined = torch.cat(parts)
    refuse_nan(joined, "tokens")
    return joined


def farthest(
    apart: Float[Tensor, "T N N"], budgets: Int[Tensor, " T"], weights: Float[Tensor, "T N"] | None = None
) -> Bool[Tensor, "T N"]:
    """Mark `budgets[t]` tokens of each frame, one after another the one farthest from all marked before.

    The first is the one farthest from its nearest neighbour. Each step takes all frames together, so the number of
    steps is the largest budget.

    Args:
        apart: distance of any two tokens.
        budgets: tokens to mark.
        weights: multiply the distances of a candidate; None weighs all alike.
    """
    frames = torch.arange(len(apart), device=apart.device)
    keep = torch.zeros(apart.shape[:2], dtype=torch.bool, device=apart.device)
    wanted = budgets.to(apart.device)
    itself = torch.eye(apart.shape[1], dtype=torch.bool, device=apart.device)
    nearest = apart.masked_fill(itself, torch.inf).amin(dim=2)  # to any other token, until one is kept
    for step in range(int(budgets.max())):
        gain = nearest if weights is None else nearest * weights
        chosen = gain.masked_fill(keep, -torch.inf).argmax(dim=1)
        keep[frames, chosen] |= step < wanted
        to_chosen = apart[frames, chosen]
        nearest = to_chosen if step == 0 else torch.minimum(nearest, to_chosen)
    return keep


def lattice(budget: int, rows: int, columns: int) -> Bool[Tensor, " N"]:
    """Mark `budget` evenly spread cells, with the proportions of the grid; rows differ by at most one cell."""
    keep = torch.zeros(rows * columns, dtype=torch.bool)
    keep[blocks(budget, rows, columns)] = budget > 0
    return keep


def blocks(budget: int, rows: int, columns: int) -> Int[Tensor, " N"]:
    """Cut a grid into `budget` blocks of nearly equal size; each cell gets the cell in the middle of its block.

    With budget 0 the whole grid is one block.
    """
    used = max(1, min(rows, budget, max(round(sqrt(budget * rows / columns)), ceil(budget / columns))))
    middles = torch.empty(rows, columns, dtype=torch.int64)
    for row, (band, middle_row) in enumerate(_parts(used, rows)):
        count = max((band + 1) * budget // used - band * budget // used, 1)
        middles[row] = torch.tensor([middle_row * columns + middle for _, middle in _parts(count, columns)])
    return middles.flatten()


def _parts(count: int, length: int) -> list[tuple[int, int]]:
    """Find, for each cell of a line cut into `count` equal parts, its part and the cell in that part's middle."""
    parts = [(2 * cell + 1) * count // (2 * length) for cell in range(length)]
    return [(part, (2 * part + 1) * length // (2 * count)) for part in parts]
