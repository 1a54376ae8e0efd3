"""VidCom2's budgets: near equal, with a bonus for the most distinctive frames."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator, check, largest_remainder


@dataclass(frozen=True)
class VidCom2Budgets(BudgetAllocator):
    """Gives each frame its equal share times 1 + softmax((relevance - max) / temperature) - 1/T.

    The paper's relevance is how unlike the video a frame's tokens are; any relevance can stand in its place. A share
    above a full frame goes to the others, where the paper cuts it.

    Source: VidCom2 (arXiv 2505.14454), section 3.2.
    """

    paper: ClassVar[str] = "VidCom2, arXiv 2505.14454"

    temperature: float = 0.01
    """Temperature of the softmax; small values give the whole bonus, one equal share, to the top frame."""

    def __post_init__(self) -> None:
        """Refuse a temperature that cannot divide."""
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be > 0")

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Split `total` by relevance; a frame of higher relevance never gets less."""
        check(relevance, total, capacity)
        ranked, frames = relevance.double().cpu().sort(descending=True, stable=True)
        weights = 1 + torch.softmax(ranked / self.temperature, dim=0) - 1 / max(len(ranked), 1)
        budgets = torch.empty_like(frames)
        budgets[frames] = largest_remainder(weights, total, capacity)
        return budgets
