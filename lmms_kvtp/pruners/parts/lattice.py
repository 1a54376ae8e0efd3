"""Evenly spread cells of a frame's grid, and the blocks around them."""

from math import ceil, sqrt

import torch
from jaxtyping import Bool, Int
from torch import Tensor


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
    """For each cell of a line cut into `count` equal parts: its part, and the cell in that part's middle."""
    parts = [(2 * cell + 1) * count // (2 * length) for cell in range(length)]
    return [(part, (2 * part + 1) * length // (2 * count)) for part in parts]
