"""One method on one task: accuracy, cost, and both against the unpruned model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from lmms_kvtp.cost import SampleCost, timed
from lmms_kvtp.leaderboard.runs import Record, Run
from lmms_kvtp.leaderboard.stats import Estimate, accuracy, difference, estimate

SPARSITY_EDGES = (0.0, 1.5, 2.0, 3.0, 5.0)
"""Lower ends of the ranges of sparsity: those of the SparseKV-QA tasks, and KVTP's least threshold, 1.5."""

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


@dataclass(frozen=True)
class Cell:
    """What a leaderboard shows of one method on one task."""

    task: str
    accuracy: Estimate
    cost: CostSummary | None
    """None where every answer came from a cache."""
    kinds: Mapping[str, Estimate]
    sparsities: Mapping[str, Estimate]
    """By largest over mean relevance."""
    failed: int
    """Questions that could not be answered; they count as wrong."""
    costless: int
    """Answers without cost: from the harness's cache, or of a model that records none."""
    difference: Estimate | None = None
    """Points against the unpruned model, question by question; None for that model, or where there is none."""
    relative: Estimate | None = None
    """Accuracy in % of the unpruned model's."""
    run: Run | None = field(default=None, repr=False, compare=False)
    """Questions and scores, without costs."""


def cell(run: Run) -> Cell:
    """Sum up a run; its records go on without their costs, which take most of the memory."""
    records = run.records
    kinds = sorted({record.kind for record in records} - {""})
    bins = {record.question: _bin(record.sparsity) for record in records if record.sparsity is not None}
    failed = sum(record.error is not None for record in records)
    return Cell(
        task=run.task,
        accuracy=accuracy(run),
        cost=summarise([record.cost for record in records if record.cost is not None]),
        kinds={kind: accuracy(run.of_kind(kind)) for kind in kinds},
        sparsities={name: accuracy(_of_bin(run, bins, name)) for name in sorted(set(bins.values()))},
        failed=failed,
        costless=sum(record.cost is None for record in records) - failed,
        run=replace(run, records=tuple(_light(record) for record in records), config={}),
    )


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


def against(ours: Cell, baseline: Cell) -> Cell:
    """Add difference and relative accuracy; unchanged where the two did not answer the same questions."""
    if ours.run is None or baseline.run is None:
        return ours
    questions = [[record.question for record in run.records] for run in (ours.run, baseline.run)]
    if questions[0] != questions[1]:
        return ours
    gap = None if ours is baseline else difference(ours.run, baseline.run)
    return replace(ours, difference=gap, relative=relative(ours.run, baseline.run))


def relative(run: Run, baseline: Run) -> Estimate | None:
    """Accuracy in % of the baseline's, both on the same questions; None where the baseline has no right answer.

    The standard error is that of the ratio r = a / b to first order: of the mean of (s - r t) / b over the questions,
    s and t being the two scores, clustered by video like every other.
    """
    base = sum(record.score for record in baseline.records) / len(baseline.records)
    if base == 0:
        return None
    ratio = sum(record.score for record in run.records) / len(run.records) / base
    pairs = zip(run.records, baseline.records, strict=True)
    parts = [(ours.score - ratio * theirs.score) / base for ours, theirs in pairs]
    spread = estimate(parts, [record.video for record in run.records])
    return Estimate(100 * ratio, spread.stderr, spread.count)


def average(relatives: Sequence[Estimate]) -> Estimate:
    """The plain mean of relative accuracies over tasks, which are independent of each other."""
    count = len(relatives)
    stderr = sum(estimate.stderr**2 for estimate in relatives) ** 0.5 / count
    return Estimate(
        sum(estimate.mean for estimate in relatives) / count, stderr, sum(estimate.count for estimate in relatives)
    )


def _light(record: Record) -> Record:
    """Without cost."""
    return Record(record.question, record.video, record.kind, record.score, None, record.error, record.sparsity)


def _bin(sparsity: float) -> str:
    """`2 to 3`; in the order of their text, ranges are in the order of their ends."""
    place = max(0, sum(sparsity >= edge for edge in SPARSITY_EDGES) - 1)
    low = f"{SPARSITY_EDGES[place]:g}"
    return f"{low} to {SPARSITY_EDGES[place + 1]:g}" if place + 1 < len(SPARSITY_EDGES) else f"{low} and more"


def _of_bin(run: Run, bins: Mapping[str, str], name: str) -> Run:
    return replace(run, records=tuple(record for record in run.records if bins.get(record.question) == name))
