"""Tokens spread over a frame: distant from each other, or on a lattice of cells."""

from collections.abc import Callable
from math import ceil, sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.pruners.parts.density_peaks import gram
from lmms_kvtp.pruners.parts.packing import refuse_nan


def distances(embeds: Float[Tensor, "T N D"]) -> Float[Tensor, "T N N"]:
    """Compute 1 - cosine between the tokens of each frame. Raises ValueError if a token is NaN."""
    joined = torch.stack([gram(F.normalize(frame.float(), dim=-1)).neg_().add_(1) for frame in embeds])
    refuse_nan(joined, "tokens")
    return joined


def farthest(
    nearest: Float[Tensor, "T N"],
    rows: Callable[[Int[Tensor, " T"]], Float[Tensor, "T N"]],
    count: int,
    again: bool = False,
) -> Int[Tensor, "T count"]:
    """Take `count` tokens of each frame, one after another the one farthest from all taken before; tell their order.

    Each step takes all frames together; of equals the earlier token goes first.

    Args:
        nearest: distance of each token from its nearest neighbour, by which the first one is chosen.
        rows: computes the distance of every token from one token of its frame.
        count: number of steps.
        again: a token may be taken several times, where all others are at distances below 0.
    """
    order = torch.empty(len(nearest), count, dtype=torch.int64, device=nearest.device)
    for step in range(count):
        order[:, step] = chosen = nearest.argmax(dim=1)
        apart = rows(chosen)
        nearest = apart if step == 0 else torch.minimum(nearest, apart)
        if not again:
            nearest.scatter_(1, chosen[:, None], -torch.inf)
    return order


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
