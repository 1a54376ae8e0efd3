"""Outcomes summed up by method, with errors clustered by video, and a recommendation in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lmms_kvtp.compare.measure import FULL, MethodOutcome
from lmms_kvtp.leaderboard.stats import MISSING, Estimate, estimate, shown

HEADER = (
    *("method", "vision tokens", "agrees with all tokens", "right", "first-token KL", "to first token", "speed-up"),
    "peak memory",
)
Z = 1.96
"""Half the width of a 95 % interval, in standard errors."""
FEW = 10
"""Number of videos below which an interval by video means little."""


@dataclass(frozen=True)
class Summary:
    """One method on all questions."""

    name: str
    agreement: Estimate
    """Share of answers that agree with all tokens, in %."""
    right: Estimate | None
    """Share of right answers, in %; None where the data have no answers."""
    kl: Estimate
    """KL divergence in hundredths of a nat, as every `Estimate` is a mean times 100."""
    seconds: Estimate
    """Seconds to the first token, in hundredths."""
    tokens_kept: float
    tokens_before: float
    peak_bytes: int | None
    videos: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of agreement; NaN with a single question or video."""
        return self.agreement.mean - Z * self.agreement.stderr if self.videos > 1 else math.nan


def summarize(outcomes: Sequence[MethodOutcome]) -> list[Summary]:
    """Sum up each method, in the order of the outcomes: all tokens first."""
    names = list(dict.fromkeys(outcome.method for outcome in outcomes))
    return [_summary(name, [outcome for outcome in outcomes if outcome.method == name]) for name in names]


def _summary(name: str, own: Sequence[MethodOutcome]) -> Summary:
    labelled = [outcome for outcome in own if outcome.right is not None]
    peaks = [outcome.peak_bytes for outcome in own if outcome.peak_bytes is not None]
    return Summary(
        name=name,
        agreement=clustered(own, [float(outcome.agrees) for outcome in own]),
        right=clustered(labelled, [float(bool(outcome.right)) for outcome in labelled]) if labelled else None,
        kl=clustered(own, [outcome.kl for outcome in own]),
        seconds=clustered(own, [outcome.seconds_to_first for outcome in own]),
        tokens_kept=sum(outcome.tokens_kept for outcome in own) / len(own),
        tokens_before=sum(outcome.tokens_before for outcome in own) / len(own),
        peak_bytes=max(peaks, default=None),
        videos=len({outcome.asked.video for outcome in own}),
    )


def clustered(own: Sequence[MethodOutcome], values: Sequence[float]) -> Estimate:
    """Mean of a value per question, times 100, with its standard error clustered by video."""
    return estimate(values, [str(outcome.asked.video) for outcome in own])


def rows(found: Sequence[Summary]) -> list[list[str]]:
    """Cells of the table, in the order of HEADER."""
    full = found[0]
    lines = []
    for one in found:
        share = one.tokens_kept / one.tokens_before if one.tokens_before else 1.0
        lines.append(
            [
                one.name,
                f"{one.tokens_kept:.0f} ({share:.1%})",
                MISSING if one.name == FULL else shown(one.agreement),
                shown(one.right),
                MISSING if one.name == FULL else shown(one.kl, 3, 100),
                f"{shown(one.seconds, 2, 100)} s",
                MISSING if one.name == FULL or not one.seconds.mean else f"{full.seconds.mean / one.seconds.mean:.2f}x",
                MISSING if one.peak_bytes is None else f"{one.peak_bytes / 2**30:.1f} GiB",
            ]
        )
    return lines


def recommend(found: Sequence[Summary], wanted: float) -> str:
    """Say which method to take, why, and how sure that is.

    Args:
        found: summaries of the methods, all tokens first.
        wanted: agreement with all tokens, in %, that a method must be shown to have.
    """
    full, pruned = found[0], found[1:]
    if not pruned:
        return "There is nothing to recommend: no method beside all tokens was run."
    count, videos = full.agreement.count, full.videos
    basis = f"{count} questions on {videos} {'video' if videos == 1 else 'videos'}"
    caution = f" With fewer than {FEW} videos the intervals mean little; add videos." if videos < FEW else ""
    good = [one for one in pruned if one.low >= wanted]
    if good:
        best = min(good, key=lambda one: (one.seconds.mean, one.tokens_kept))
        others = [one.name for one in good if one is not best]
        also = f" So do {', '.join(others)}, which take longer." if others else ""
        gain = f"{best.tokens_kept / best.tokens_before:.0%} of the vision tokens"
        return (
            f"Take {best.name}: it agrees with all tokens on {best.agreement} % of {basis}, at least {best.low:.1f} % "
            f"with 95 % confidence, with {gain} and {_speed(full, best)}.{also}{caution}"
        )
    near = max(pruned, key=lambda one: (one.agreement.mean, -one.kl.mean))
    if near.agreement.mean >= wanted:
        margin = f"±{Z * near.agreement.stderr:.1f} points" if videos > 1 else "other videos open"
        return (
            f"Not sure yet: {near.name} agrees on {near.agreement} %, but {basis} leave {margin}, so "
            f"{wanted:g} % is not shown. Add videos, or accept less with --agreement.{caution}"
        )
    return (
        f"Keep all tokens, or try a higher ratio: no method agrees with all tokens on {wanted:g} % of {basis}. "
        f"The closest is {near.name} with {near.agreement} %.{caution}"
    )


def _speed(full: Summary, best: Summary) -> str:
    gain = full.seconds.mean / best.seconds.mean if best.seconds.mean else math.nan
    if gain < 1:
        return f"{1 / gain:.2f} times the time to the first token"
    return f"the first token {gain:.2f} times sooner"
