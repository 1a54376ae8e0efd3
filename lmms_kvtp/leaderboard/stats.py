"""Means and paired differences with errors clustered by video, by the harness's own functions and scipy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from lmms_eval.api.metrics import clustered_stderr, power_analysis

from lmms_kvtp.leaderboard.runs import Run

RESAMPLES = 2000
"""Draws of the bootstrap, with which ends of a 95 % interval vary by a few hundredths of its width."""
MISSING = "-"
"""What tables show where a value is not known."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, in points of 100."""

    mean: float
    stderr: float
    count: int

    def __str__(self) -> str:
        """`77.1 ± 1.4`; a dash for what is not known."""
        return shown(self)


def shown(estimate: Estimate | None, digits: int = 1, divisor: int = 1) -> str:
    """`77.1 ± 1.4`, both numbers over `divisor`; a dash for what is not known."""
    if estimate is None or math.isnan(estimate.mean):
        return MISSING
    error = MISSING if math.isnan(estimate.stderr) else f"{estimate.stderr / divisor:.{digits}f}"
    return f"{estimate.mean / divisor:.{digits}f} ± {error}"


def estimate(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """Mean of some values and its standard error, clustered."""
    mean = sum(values) / len(values) if values else float("nan")
    return Estimate(100 * mean, 100 * clustered_stderr(values, clusters), len(values))


def accuracy(run: Run) -> Estimate:
    """Accuracy of a run; questions on one video are one cluster."""
    return estimate([answer.score for answer in run.answers], [answer.video for answer in run.answers])


def difference(run: Run, baseline: Run) -> Estimate:
    """Accuracy of `run` minus that of `baseline`, question by question.

    ValueError where they did not answer the same questions of one task, or a score is no number.
    """
    return estimate(deltas(run, baseline), [answer.video for answer in run.answers])


def deltas(run: Run, baseline: Run) -> list[float]:
    """Score of `run` minus that of `baseline` on each question; raises as `difference` does."""
    ours, theirs = ([answer.question for answer in r.answers] for r in (run, baseline))
    if run.task != baseline.task or ours != theirs:
        raise ValueError(
            f"{run.name} ({len(ours)} questions of {run.task}) and {baseline.name} ({len(theirs)} of {baseline.task}) "
            "did not answer the same questions; run both on the same task with the same --limit"
        )
    for r in (run, baseline):
        bad = [answer.question for answer in r.answers if not math.isfinite(answer.score)]
        if bad:
            raise ValueError(f"{r.name} has no score for {len(bad)} questions of {r.task}, such as {bad[0]!r}")
    return [a.score - b.score for a, b in zip(run.answers, baseline.answers, strict=True)]


def bootstrap_interval(run: Run, baseline: Run, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference, in points: whole videos are drawn with replacement, with all of their questions.

    NaN with fewer than two videos. Raises as `difference` does.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for answer, delta in zip(run.answers, deltas(run, baseline), strict=True):
        sums[answer.video] = sums.get(answer.video, 0.0) + delta
        counts[answer.video] = counts.get(answer.video, 0) + 1
    if len(sums) < 2:
        return math.nan, math.nan
    found = scipy.stats.bootstrap(
        (np.array(list(sums.values())), np.array(list(counts.values()))),
        lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=200,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return 100 * float(found.confidence_interval.low), 100 * float(found.confidence_interval.high)


@dataclass(frozen=True)
class Flips:
    """Questions on which two runs differ, and McNemar's exact test of them, which knows nothing of videos."""

    gained: int
    """Questions that are right where the baseline is wrong."""
    lost: int
    """Questions that are wrong where the baseline is right."""
    p_value: float
    """Two-sided p-value."""


def flips(run: Run, baseline: Run) -> Flips | None:
    """Questions gained and lost; None where scores are not right or wrong. Raises as `difference` does."""
    changes = deltas(run, baseline)
    if not all(answer.score in (0.0, 1.0) for r in (run, baseline) for answer in r.answers):
        return None
    gained, lost = sum(delta > 0 for delta in changes), sum(delta < 0 for delta in changes)
    if not gained + lost:
        return Flips(0, 0, 1.0)
    return Flips(gained, lost, float(scipy.stats.binomtest(gained, gained + lost).pvalue))


def p_value(gap: Estimate, videos: int) -> float:
    """Two-sided p-value of a difference by its clustered standard error, with videos - 1 degrees of freedom."""
    if videos < 2 or math.isnan(gap.stderr):
        return math.nan
    if gap.stderr == 0:
        return 1.0 if gap.mean == 0 else 0.0
    return 2 * float(scipy.stats.t.sf(abs(gap.mean) / gap.stderr, videos - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for as many comparisons as there are numbers; NaN stays and counts for none.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = list(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[i] = highest
    return corrected


def detectable(gap: Estimate, power: float = 0.8) -> float:
    """The smallest difference, in points, that as many questions would show with this power at the 5 % level."""
    if not gap.count or math.isnan(gap.stderr):
        return math.nan
    spread = _spread(gap)
    if not spread:
        return 0.0
    found = power_analysis(effect_size=spread, std_a=spread, power=power, current_n=gap.count)
    return 100 * float(found["min_detectable_effect"])


def questions_needed(gap: Estimate, power: float = 0.8) -> int | None:
    """Number of questions that would show a difference as large as this one; None where there is none to show."""
    if math.isnan(gap.stderr) or not gap.stderr or not gap.mean:
        return None
    return int(power_analysis(effect_size=abs(gap.mean) / 100, std_a=_spread(gap), power=power)["min_n"])


def _spread(gap: Estimate) -> float:
    """Standard deviation of one question's difference that would give this error, were questions independent.

    Given for both runs, at the default correlation of 1/2, `power_analysis` takes it for that of the difference.
    """
    return gap.stderr / 100 * math.sqrt(gap.count)
