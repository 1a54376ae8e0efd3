"""Keyframe selection: whole frames or nothing."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator, check, whole_frames


@dataclass(frozen=True)
class Hard(BudgetAllocator):
    """Keeps the frames of highest relevance whole, and nothing of the others.

    The total need not be a multiple of a frame: the last frame that is chosen keeps the rest, so a pruner other than
    `none` has to stand beside this. Source: KeyVideoLLM (arXiv 2407.03104), which selects the top frames by
    question-frame similarity.
    """

    paper: ClassVar[str] = "KeyVideoLLM, arXiv 2407.03104"

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Fill frames in the order of their relevance; ties go to the earlier frame."""
        check(relevance, total, capacity)
        return whole_frames(relevance, total, capacity)
