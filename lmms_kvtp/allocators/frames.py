"""Fewer whole frames: the control for every method that thins frames out."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator, check


@dataclass(frozen=True)
class FewerFrames(BudgetAllocator):
    """Spends the total on whole frames, spread evenly over the video; the last of them keeps what is left."""

    query_aware: ClassVar[bool] = False

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Choose the frames in the middles of equal parts of the video; relevance counts only by its length."""
        check(relevance, total, capacity)
        budgets = torch.zeros(len(relevance), dtype=torch.int64)
        count = -(-total // capacity)
        if count:
            middles = (2 * torch.arange(count) + 1) * len(relevance) // (2 * count)
            budgets[middles] = capacity
            budgets[middles[-1]] = total - (count - 1) * capacity
        return budgets
