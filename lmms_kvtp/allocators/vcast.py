"""V-CAST's budgets: a floor for every frame, and the rest where the video turns."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator, check


@dataclass(frozen=True)
class VCastBudgets(BudgetAllocator):
    """Gives each frame `floor` tokens, and of the rest a share in proportion to softmax(relevance / temperature).

    Shares are rounded down and cut where a frame is full. As in the release, what that leaves over goes to the frame
    of the largest fraction alone until it is full, then to the next: with even relevance a few frames get far more
    than the others. Where the total does not hold every frame's floor, there is none.

    Source: V-CAST (arXiv 2603.27650), as released; its relevance is `scorer=vcast`.
    """

    paper: ClassVar[str] = "V-CAST, arXiv 2603.27650"

    temperature: float = 0.7
    """Temperature of the softmax, > 0; large values tend to equal shares."""
    floor: int = 1
    """Least tokens of a frame, where the total allows it."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be > 0; allocator=hard selects whole frames")
        if self.floor < 0:
            raise ValueError(f"floor={self.floor} must be >= 0 tokens a frame")

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Split `total` by relevance; of equal fractions the earlier frame goes first."""
        check(relevance, total, capacity)
        frames = len(relevance)
        floor = min(self.floor, capacity) if total >= frames * min(self.floor, capacity) else 0
        shares = torch.softmax(relevance.double().cpu() / self.temperature, dim=0) * (total - frames * floor)
        budgets = shares.long().clamp(max=capacity - floor) + floor
        order = (shares - shares.floor()).argsort(descending=True, stable=True)  # a full frame has no room
        room = capacity - budgets[order]
        before = room.cumsum(dim=0) - room
        budgets[order] += (total - int(budgets.sum()) - before).clamp(min=0).minimum(room)
        return budgets
