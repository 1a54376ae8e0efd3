"""One method on one task: accuracy, cost, and both against the unpruned model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lmms_kvtp.cost.mean import MeanCost
from lmms_kvtp.leaderboard.discover import RunSummary, SampleFile
from lmms_kvtp.leaderboard.runs import Run, ScoredAnswer
from lmms_kvtp.leaderboard.stats import Estimate, accuracy, difference, estimate

SPARSITY_EDGES = (0.0, 1.5, 2.0, 3.0, 5.0)
"""Lower ends of the ranges of sparsity: those of the SparseKV-QA tasks, and KVTP's least threshold, 1.5."""


@dataclass(frozen=True)
class TaskScore:
    """What a leaderboard shows of one method on one task."""

    task: str
    accuracy: Estimate
    cost: MeanCost | None
    """Mean cost; None where every answer came from a cache."""
    kinds: Mapping[str, Estimate]
    """Accuracy by kind of question."""
    sparsities: Mapping[str, Estimate]
    """Accuracy by range of largest over mean relevance."""
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
    file: SampleFile | None = field(default=None, repr=False, compare=False)
    """Where the samples lie."""
    again: tuple[Run, ...] = field(default=(), repr=False, compare=False)
    """This run and others of the unpruned model that differ in batch size or phase alone; none for a method."""


def task_score(summary: RunSummary) -> TaskScore:
    """Score what was read of a sample file."""
    answers = summary.run.answers
    return TaskScore(
        task=summary.run.task,
        accuracy=accuracy(summary.run),
        cost=summary.cost,
        kinds=_groups(summary.run, [answer.kind for answer in answers]),
        sparsities=_groups(summary.run, [_sparsity_range(answer.sparsity) for answer in answers]),
        failed=sum(answer.error is not None for answer in answers),
        costless=summary.costless,
        run=summary.run,
    )


def against(ours: TaskScore, baseline: TaskScore) -> TaskScore:
    """Add difference and relative accuracy; unchanged where the two did not answer the same questions."""
    if ours.run is None or baseline.run is None:
        return ours
    if ours.run.questions != baseline.run.questions:
        return ours
    gap = None if ours is baseline else difference(ours.run, baseline.run)
    return replace(ours, difference=gap, relative=relative(ours.run, baseline.run))


def relative(run: Run, baseline: Run) -> Estimate | None:
    """Accuracy in % of the baseline's, both on the same questions; None where the baseline has no right answer.

    The standard error is that of the ratio r = a / b to first order: of the mean of (s - r t) / b over the questions,
    s and t being the two scores, clustered by video like every other.
    """
    base = sum(answer.score for answer in baseline.answers) / len(baseline.answers)
    if base == 0:
        return None
    ratio = sum(answer.score for answer in run.answers) / len(run.answers) / base
    pairs = zip(run.answers, baseline.answers, strict=True)
    parts = [(ours.score - ratio * theirs.score) / base for ours, theirs in pairs]
    spread = estimate(parts, [answer.video for answer in run.answers])
    return Estimate(100 * ratio, spread.stderr, spread.count)


def average(relatives: Sequence[Estimate]) -> Estimate:
    """The plain mean of relative accuracies over tasks, which are independent of each other."""
    count, questions = len(relatives), sum(one.count for one in relatives)
    stderr = sum(one.stderr**2 for one in relatives) ** 0.5 / count
    return Estimate(sum(one.mean for one in relatives) / count, stderr, questions)


def _groups(run: Run, names: Sequence[str]) -> dict[str, Estimate]:
    """Accuracy of the answers of each name, in the order of the names; an answer without name is in no group."""
    groups: dict[str, list[ScoredAnswer]] = {}
    for answer, name in zip(run.answers, names, strict=True):
        groups.setdefault(name, []).append(answer)
    return {name: accuracy(replace(run, answers=tuple(groups[name]))) for name in sorted(groups) if name}


def _sparsity_range(sparsity: float | None) -> str:
    """`2 to 3`, so that ranges sorted as text are sorted by their ends; empty where sparsity is not known."""
    if sparsity is None:
        return ""
    place = max(0, sum(sparsity >= edge for edge in SPARSITY_EDGES) - 1)
    low, *higher = SPARSITY_EDGES[place : place + 2]
    return f"{low:g} to {higher[0]:g}" if higher else f"{low:g} and more"
