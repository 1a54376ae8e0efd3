"""Means of what answers cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lmms_kvtp.cost.sample import SampleCost, timed

SHARED = "shared"
"""Stands beside seconds of a sweep."""


@dataclass(frozen=True)
class CostSummary:
    """Means per question over the answers that carry their cost."""

    count: int
    """Answers with cost."""
    tokens_before: float
    tokens_kept: float
    tokens_structural: float
    prompt_tokens: float
    flops: float | None
    """All stages that have a closed form; None where an answer lacks them. Convention: docs/costs.md."""
    seconds: float
    """Shared stages divided among the questions on a video, without each process's first video, its warm-up."""
    peak_bytes: int | None
    """The largest; None on a CPU."""
    swept: bool = False
    """Seconds are of a sweep, whose methods share encoders: no measure of this one."""

    @property
    def seconds_text(self) -> str:
        """`0.52`, and `0.52 shared` of a sweep."""
        return f"{self.seconds:.2f}" + (f" {SHARED}" if self.swept else "")

    @property
    def keep_ratio(self) -> float:
        """Vision tokens that entered the language model over those of the unpruned model."""
        return self.tokens_kept / self.tokens_before if self.tokens_before else 1.0


def summarise(costs: Sequence[SampleCost]) -> CostSummary | None:
    """Means of costs; None where there are none."""
    if not costs:
        return None
    count = len(costs)
    flops = [sum(cost.flops.values()) for cost in costs]
    peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
    return CostSummary(
        count=count,
        tokens_before=sum(cost.tokens_before for cost in costs) / count,
        tokens_kept=sum(cost.tokens_kept for cost in costs) / count,
        tokens_structural=sum(cost.tokens_structural for cost in costs) / count,
        prompt_tokens=sum(cost.prompt_tokens for cost in costs) / count,
        flops=sum(flops) / count if all(flops) else None,
        seconds=fmean([cost.seconds_total for cost in timed(costs)]),
        peak_bytes=max(peaks, default=None),
        swept=any(cost.swept for cost in costs),
    )
