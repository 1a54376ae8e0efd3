"""Budgets as KVTP's released code makes them, losses included; for reproduction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import BudgetAllocator, check

Rule = Literal["floor", "complement"]


@dataclass(frozen=True)
class KvtpRelease(BudgetAllocator):
    """Clips softmax rates above 1 and rounds down, so sharp relevance loses part of its own budget.

    Source: the released code of KVTP (arXiv 2503.10742). With relevance of standard deviation 2.5 over 128 frames it
    keeps 77 % of the total. Its half-precision rates are not imitated: they move a few tokens. Frames without a token
    are possible.
    """

    exact: ClassVar[bool] = False
    paper: ClassVar[str] = "KVTP, arXiv 2503.10742 (released code)"

    temperature: float = 2.0
    """Temperature of the softmax, > 0; large values tend to equal budgets."""
    rule: Rule = "floor"
    """floor: int(N * rate), the release's counts for PruMerge; complement: N - int(N * (1 - rate)), those for ToMe."""
    base_rate: float | None = None
    """The release's mean rate, for counts equal to its own; None takes it from the total, which is rounded down."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be > 0; allocator=hard selects whole frames")

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Round each frame's clipped rate on its own; the sum is not `total`.

        ValueError where `base_rate` contradicts `total`.
        """
        check(relevance, total, capacity)
        tokens = max(len(relevance) * capacity, 1)
        base = total / tokens if self.base_rate is None else self.base_rate
        if abs(base * tokens - total) >= 1:
            raise ValueError(f"base_rate={base} contradicts a total of {total} of {tokens} tokens; set both alike")
        return counts(rates(relevance, base, self.temperature), capacity, self.rule)


def rates(relevance: Float[Tensor, " T"], base_rate: float, temperature: float) -> Float[Tensor, " T"]:
    """Compute the release's rates, which average to `base_rate` and may exceed 1; in float32, unless given float64."""
    scores = relevance.cpu().to(torch.promote_types(relevance.dtype, torch.float32))
    return torch.softmax((scores - scores.mean()) / temperature, dim=0) * len(scores) * base_rate


def counts(rate: Float[Tensor, " T"], capacity: int, rule: Rule) -> Int[Tensor, " T"]:
    """Round rates to the tokens that the release keeps of each frame."""
    clipped = rate.cpu().clamp(0, 1)
    return (capacity * clipped).long() if rule == "floor" else capacity - (capacity * (1 - clipped)).long()
