"""Means and paired differences with errors clustered by video, by the harness's own functions and scipy."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pandas
import scipy.stats
from lmms_eval.api.metrics import clustered_stderr

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


def shown(estimate: Estimate | None, digits: int = 1, divisor: int = 1, sign: str = "") -> str:
    """`77.1 ± 1.4`, both numbers over `divisor`; a dash for what is not known."""
    if estimate is None or math.isnan(estimate.mean):
        return MISSING
    form = f".{digits}f"
    return f"{told(estimate.mean / divisor, sign + form)} ± {told(estimate.stderr / divisor, form)}"


def told(value: float, form: str = ".1f") -> str:
    """A number in a format; a dash for what is not known."""
    return MISSING if math.isnan(value) else f"{value:{form}}"


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
    ours, theirs = run.questions, baseline.questions
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
    places, _ = pandas.factorize(np.array([answer.video for answer in run.answers], dtype=object))
    sums, counts = np.bincount(places, deltas(run, baseline)), np.bincount(places)
    if len(sums) < 2:
        return math.nan, math.nan
    found = scipy.stats.bootstrap(
        (sums, counts),
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
    """Two-sided p-value of a difference by its clustered standard error, with videos - 1 degrees of freedom.

    Where every video shows the same gain, there is no error to divide by, and videos are counted as equal signs.
    """
    if videos < 2 or math.isnan(gap.stderr):
        return math.nan
    if gap.stderr == 0:
        return 1.0 if gap.mean == 0 else 2 * 0.5**videos
    return 2 * float(scipy.stats.t.sf(abs(gap.mean) / gap.stderr, videos - 1))


def equality(run: Run, baseline: Run, margin: float) -> tuple[float, float]:
    """Two one-sided tests of a difference beyond `margin` points, and the margin that so many questions resolve.

    The error is the larger one of the clustered standard error and that which a true difference of `margin` would have,
    since few changes, all in one direction, look more certain than they are. Where few videos changed, nothing tells
    how alike the questions on one are; then they count as nearly one question.

    Returns:
        The p-value; and the least margin, in points, at which equal rows pass in 4 of 5 cases. NaN below two videos.
        Raises as `difference` does.
    """
    changes, videos = deltas(run, baseline), [answer.video for answer in run.answers]
    gap, count, sizes = estimate(changes, videos), len(changes), Counter(videos)
    if len(sizes) < 2:
        return math.nan, math.nan
    alone = estimate(changes, [answer.question for answer in run.answers]).stderr
    together = sum(size**2 for size in sizes.values()) / count  # design effect, if a video's questions change at once
    moved = len({video for video, change in zip(videos, changes, strict=True) if change})
    effect = (moved * max(1.0, (gap.stderr / alone) ** 2 if alone else 1.0) + together) / (moved + 1)
    points, mean, error = margin / 100, abs(gap.mean) / 100, gap.stderr / 100
    spread = fmean([change**2 for change in changes]) + max(0.0, points - mean) - points**2
    error_at_margin = max(error, math.sqrt(max(0.0, spread) * effect / count), 1e-12)
    student = scipy.stats.t(len(sizes) - 1)
    needed = student.isf(0.05) + student.isf(0.1)
    a, c = needed**2 * effect / count, (needed * error) ** 2  # margin**2 * (1 + a) = a * margin + c
    least = (a + math.sqrt(a**2 + 4 * (1 + a) * c)) / (2 * (1 + a))
    return float(student.sf((points - mean) / error_at_margin)), 100 * float(least)


def changed(run: Run, baseline: Run) -> Estimate | None:
    """Share of questions, in %, that the two answered with another content; None where samples tell no answers."""
    if not any(answer.given for r in (run, baseline) for answer in r.answers):
        return None
    deltas(run, baseline)  # raises where the questions are others
    pairs = zip(run.answers, baseline.answers, strict=True)
    return estimate([float(a.given != b.given) for a, b in pairs], [answer.video for answer in run.answers])


def overlap(run: Run, other: Run) -> Estimate | None:
    """Tokens that both keep, in % of those of the one that keeps fewer; None where samples do not tell.

    Each question counts alike. It is read off 256 patches of each question, see `SampleCost.kept_probe`.
    """
    shares, videos = [], []
    for a, b in zip(run.answers, other.answers, strict=False):
        (total, _, ours), (same, _, theirs) = a.kept.partition(":"), b.kept.partition(":")
        if a.question == b.question and total and total == same:
            left, right = int(ours, 16), int(theirs, 16)
            if fewer := min(left.bit_count(), right.bit_count()):
                shares.append((left & right).bit_count() / fewer)
                videos.append(a.video)
    return estimate(shares, videos) if shares else None


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
    return float(scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(power)) * gap.stderr


def questions_needed(gap: Estimate, power: float = 0.8) -> int | None:
    """Number of questions that would show a difference as large as this one; None where there is none to show."""
    if math.isnan(gap.stderr) or not gap.stderr or not gap.mean:
        return None
    return math.ceil(gap.count * (detectable(gap, power) / gap.mean) ** 2)
