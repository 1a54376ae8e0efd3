"""Interface of budget allocators, and the exact rounding that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class BudgetAllocator(ABC):
    """Turns frame relevance into integer budgets."""

    exact: ClassVar[bool] = True
    """Budgets sum to the total. False only for published behaviour that loses part of it."""
    query_aware: ClassVar[bool] = True
    """Budgets depend on relevance."""
    temporal: ClassVar[bool] = False
    """Budgets depend on where frames stand in the video, not on relevance alone."""
    paper: ClassVar[str] = ""
    """Where the method comes from: a name and an arXiv id."""
    training_free: ClassVar[bool] = True
    """Nothing in it was trained for pruning."""

    @abstractmethod
    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Give each frame its budget.

        Args:
            relevance: how relevant each frame is to the question, any real scale.
            total: tokens to keep in the whole video, 0 <= total <= T * capacity.
            capacity: tokens that one frame has.

        Returns:
            Integers in [0, capacity] that sum to `total`, on the CPU.

        Raises:
            ValueError: `total` does not fit in the frames, or a relevance is NaN or infinite.
        """


@dataclass(frozen=True)
class HalvingAllocator(BudgetAllocator):
    """Keeps whole frames of the parts into which it halves a video; the two forms of AKS differ in their shares."""

    temporal: ClassVar[bool] = True

    threshold: float = 0.8
    """Excess of the top frames over the mean that stops the halving."""
    depth: int = 5
    """Largest number of halvings."""

    def __post_init__(self) -> None:
        """Refuse a negative depth."""
        if self.depth < 0:
            raise ValueError(f"depth={self.depth} must be >= 0 halvings")

    @abstractmethod
    def choose(self, scores: Float[Tensor, " T"], count: int) -> Bool[Tensor, " T"]:
        """Mark at most `count` > 0 frames by their scores in [0, 1]."""

    @final
    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Choose frames by parts of the video; ties go to the earlier frame."""
        check(relevance, total, capacity)
        count = ceil(total / capacity)
        if not count:
            return torch.zeros(len(relevance), dtype=torch.int64)
        above = relevance.double().cpu() - relevance.double().min().cpu()
        scores = above / (float(above.max()) or 1.0)  # zeros where all frames are alike
        kept = self.choose(scores, count)
        return whole_frames(scores.masked_fill(~kept, -1), min(total, int(kept.sum()) * capacity), capacity)

    @final
    def parts(
        self,
        scores: Float[Tensor, " T"],
        count: int,
        small: Callable[[int, int], bool],
        start: int = 0,
        halvings: int = 0,
    ) -> list[tuple[int, int, int]]:
        """Halve a video until relevance peaks in a part; list start, stop and number of halvings of each, in order.

        A part stays whole where `small` says so of its numbers of frames and halvings. `scores` begin at frame `start`.
        """
        peak = float(scores.topk(min(count, len(scores))).values.mean() - scores.mean())
        if peak > self.threshold or halvings == self.depth or small(len(scores), halvings):
            return [(start, start + len(scores), halvings)]
        middle = len(scores) // 2
        return [
            *self.parts(scores[:middle], count, small, start, halvings + 1),
            *self.parts(scores[middle:], count, small, start + middle, halvings + 1),
        ]


def check(relevance: Float[Tensor, " T"], total: int, capacity: int) -> None:
    """Refuse by ValueError what no allocation can meet: a `total` that does not fit, or relevance that is no number."""
    frames = len(relevance)
    if not 0 <= total <= frames * capacity:
        raise ValueError(f"cannot keep {total} tokens of {frames} frames x {capacity} tokens")
    bad = torch.nonzero(~torch.isfinite(relevance)).flatten().tolist()
    if bad:
        raise ValueError(f"relevance of frames {bad[:5]} is not finite; look at the scorer and its dtype")


def largest_remainder(
    weights: Float[Tensor, " T"], total: int, capacity: int | Int[Tensor, " T"], floor: int = 0
) -> Int[Tensor, " T"]:
    """Split `total` in proportion to `weights` into integers of [floor, capacity].

    What a full frame cannot take is spread over the others in proportion to their weights, and a share below `floor`
    is raised at the others' cost (water-filling); then fractions go to the largest remainders, ties to the earlier
    frame. A floor that does not fit (floor * T > total) is lowered to total // T.

    Args:
        weights: >= 0; all zero means equal shares.
        total: 0 <= total <= the sum of capacities.
        capacity: upper limit of a share, or of each share.
        floor: lower limit of a share; a capacity below it is a share's lower limit.
    """
    caps = np.broadcast_to(np.asarray(capacity, dtype=np.float64), len(weights))
    floors = np.minimum(caps, min(floor, total // max(len(weights), 1)))
    shares = _water_fill(weights.double().cpu().numpy(), total, caps, floors)
    budgets = np.floor(shares + 1e-9).astype(np.int64)
    fraction = np.round(shares - budgets, 9)
    fraction[budgets >= caps] = -1.0  # a full frame takes no more
    extra = np.argsort(-fraction, kind="stable")[: total - budgets.sum()]
    budgets[extra] += 1
    return torch.from_numpy(budgets)


def at_one_rate(
    mass: Float[Tensor, " G"], sizes: Int[Tensor, " G"], total: int, late: Float[Tensor, " G"] | float = 0.0
) -> Int[Tensor, " G"]:
    """Share `total` among groups as rounding of rate * mass does, at the rate that meets the total.

    The j-th of a group's tokens is kept at rates above (j - 1 + late) / mass; the total takes those of the lowest
    rates, of equals those of the larger group.

    Args:
        mass: >= 0; a group without mass gets what others cannot take.
        sizes: tokens of each group, and so the most it keeps.
        total: at most the sum of sizes.
        late: 0 rounds up, 0.5 to the nearest, halves to even.
    """
    group = torch.arange(len(sizes)).repeat_interleave(sizes)
    before = (torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group]).double()
    late = torch.as_tensor(late, dtype=torch.float64).expand(len(sizes))[group]
    rank = before + late * (1 - 1e-9 * (before % 2))  # of halves, those that round to an even number come first
    heavy = (-mass).argsort(stable=True).argsort()[group].argsort(stable=True)
    rate = torch.where(mass[group] > 0, rank / mass[group].double(), torch.inf)
    return torch.bincount(group[heavy][rate[heavy].argsort(stable=True)][:total], minlength=len(sizes))


def whole_frames(relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
    """Fill frames in the order of their relevance, ties to the earlier one; the last of them keeps what is left."""
    ranks = relevance.cpu().argsort(descending=True, stable=True).argsort()
    return (total - ranks * capacity).clamp(0, capacity)


def _water_fill(weights: np.ndarray, total: int, caps: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """Find the real shares clip(level * weights, floors, caps) that sum to `total`.

    Variable fixing: at a trial level, if what overflows outweighs what the floors lift, the overflowing shares are
    full at the final level too, else the lifted ones stay at their floors; so each round settles at least one frame.
    """
    shares = np.zeros(len(weights))
    moving = np.ones(len(weights), dtype=bool)
    rest = float(total)
    while moving.any():
        w, cap, floor = weights[moving] / (weights[moving].max() or 1.0), caps[moving], floors[moving]  # no overflow
        trial = rest * (w / w.sum() if w.any() else np.full(len(w), 1 / len(w)))
        over, under = np.maximum(trial - cap, 0), np.maximum(floor - trial, 0)
        full = over.sum() > under.sum()
        settled = over > 0 if full else under > 0
        if not settled.any():
            shares[moving] = trial
            break
        frames = np.flatnonzero(moving)[settled]
        shares[frames] = (cap if full else floor)[settled]
        rest -= shares[frames].sum()
        moving[frames] = False
    return shares
