"""One method on one task: accuracy, cost, and both against the unpruned model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lmms_kvtp.leaderboard.discover import Read
from lmms_kvtp.leaderboard.runs import CostSummary, Record, Run
from lmms_kvtp.leaderboard.stats import Estimate, accuracy, difference, estimate

SPARSITY_EDGES = (0.0, 1.5, 2.0, 3.0, 5.0)
"""Lower ends of the ranges of sparsity: those of the SparseKV-QA tasks, and KVTP's least threshold, 1.5."""


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


def cell(read: Read) -> Cell:
    """Sum up what was read of a sample file."""
    records = read.run.records
    return Cell(
        task=read.run.task,
        accuracy=accuracy(read.run),
        cost=read.cost,
        kinds=_groups(records, [record.kind for record in records]),
        sparsities=_groups(records, [_bin(record.sparsity) for record in records]),
        failed=sum(record.error is not None for record in records),
        costless=read.costless,
        run=read.run,
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


def _groups(records: Sequence[Record], names: Sequence[str]) -> dict[str, Estimate]:
    """Accuracy of the records of each name, in the order of the names; a record without name is in no group."""
    groups: dict[str, list[Record]] = {}
    for record, name in zip(records, names, strict=True):
        groups.setdefault(name, []).append(record)
    return {
        name: estimate([record.score for record in groups[name]], [record.video for record in groups[name]])
        for name in sorted(groups)
        if name
    }


def _bin(sparsity: float | None) -> str:
    """`2 to 3`; in the order of their text, ranges are in the order of their ends. Empty where it is not known."""
    if sparsity is None:
        return ""
    place = max(0, sum(sparsity >= edge for edge in SPARSITY_EDGES) - 1)
    low = f"{SPARSITY_EDGES[place]:g}"
    return f"{low} to {SPARSITY_EDGES[place + 1]:g}" if place + 1 < len(SPARSITY_EDGES) else f"{low} and more"
