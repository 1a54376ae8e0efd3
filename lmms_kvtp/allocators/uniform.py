"""Equal budgets: the control that every relevance has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator, check


@dataclass(frozen=True)
class EqualBudgets(BudgetAllocator):
    """Gives each frame the same budget; the tokens left over go to frames spread evenly over the video."""

    query_aware: ClassVar[bool] = False

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Split `total` evenly; relevance counts only by its length."""
        check(relevance, total, capacity)
        edges = torch.arange(len(relevance) + 1) * total // max(len(relevance), 1)
        return edges.diff()
