"""What an answer of a run costs on average, as tables and plots show it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_kvtp.cost.sample import SHARED_FLOPS, SampleCost, mean_seconds

SWEPT_MARK = "shared"
"""Word beside seconds that were measured in a sweep."""
TOO_MUCH = 1e30
"""What no cost of an answer reaches."""


@dataclass(frozen=True)
class MeanCost:
    """Means per question over the answers that carry their cost."""

    count: int
    """Answers with cost."""
    tokens_before: float
    tokens_kept: float
    tokens_structural: float
    prompt_tokens: float
    flops: float | None
    """Operations of all stages that have a closed form; None where an answer lacks them. Convention: docs/costs.md."""
    seconds: float | None
    """Seconds with shared stages divided among the questions on a video, without each process's warm-up video; None
    where the run took no time (timing=off)."""
    peak_bytes: int | None
    """Largest peak of memory; None on a CPU."""
    flops_shared: float | None = None
    """What of `flops` the questions on a video share; None where it is not known."""
    swept: bool = False
    """Whether seconds come from a sweep, whose methods share encoders: they do not measure this method alone."""

    def tera_flops(self, questions: int) -> float | None:
        """Operations of an answer, in 10**12, where so many questions share a video's encoding."""
        shared = self.flops_shared if questions > 1 else 0.0
        return None if self.flops is None or shared is None else (self.flops - shared * (1 - 1 / questions)) / 1e12

    @property
    def seconds_text(self) -> str:
        """`0.52`, or `0.52 shared` for a sweep."""
        if self.seconds is None:
            return "-"
        return f"{self.seconds:.2f}" + (f" {SWEPT_MARK}" if self.swept else "")

    @property
    def keep_ratio(self) -> float:
        """Vision tokens that entered the language model over those of the unpruned model."""
        return self.tokens_kept / self.tokens_before if self.tokens_before else 1.0


def mean_cost(costs: Sequence[SampleCost]) -> MeanCost | None:
    """Average costs; None where there are none. ValueError where they are senseless, others where no numbers."""
    if not costs:
        return None
    count = len(costs)
    flops = [sum(cost.flops.values()) for cost in costs]
    peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
    counted = ("tokens_before", "tokens_kept", "tokens_structural", "prompt_tokens")
    before, kept, structural, prompt = (sum(getattr(cost, name) for cost in costs) / count for name in counted)
    operations = sum(flops) / count if all(flops) else None
    shared = sum([cost.flops.get(stage, 0) for cost in costs for stage in SHARED_FLOPS]) / count
    seconds, peak = mean_seconds(costs), max(peaks, default=None)
    swept = any(cost.swept for cost in costs)
    if not all(0 <= (value or 0) < TOO_MUCH for value in (before, kept, structural, prompt, operations, seconds, peak)):
        raise ValueError("the costs of its answers are no costs: they are negative, or of no end")
    return MeanCost(count, before, kept, structural, prompt, operations, seconds, peak, shared, swept)
