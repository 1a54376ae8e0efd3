"""KVTP's soft keyframe selection."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator, check, largest_remainder, whole_frames


@dataclass(frozen=True)
class Softmax(BudgetAllocator):
    """Gives each frame a share of the total in proportion to softmax(relevance / temperature).

    What a full frame cannot take is spread over the others, so the sum is exact. The released code clips such shares
    and loses the rest; see allocators/kvtp_release.py.

    Source: KVTP (arXiv 2503.10742), eq. 1.
    """

    paper: ClassVar[str] = "KVTP, arXiv 2503.10742"

    temperature: float = 2.0
    """Temperature of the softmax; large values tend to equal budgets, 0 selects whole top frames (hard selection)."""
    floor: int = 1
    """Least tokens of a frame, where the total allows it; hard selection has none."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature} must be >= 0; 0 means hard selection")
        if self.floor < 0:
            raise ValueError(f"floor={self.floor} must be >= 0 tokens a frame")

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Split `total` by relevance; a frame of higher relevance never gets less."""
        check(relevance, total, capacity)
        if self.temperature == 0:
            return whole_frames(relevance, total, capacity)
        ranked, frames = relevance.double().cpu().sort(descending=True, stable=True)
        weights = torch.softmax(ranked / self.temperature, dim=0)
        budgets = torch.empty_like(frames)
        budgets[frames] = largest_remainder(weights, total, capacity, self.floor)  # equal shares favour relevance
        return budgets
