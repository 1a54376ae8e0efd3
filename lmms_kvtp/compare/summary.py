"""What a comparison says: outcomes summed up by method, a recommendation, and an HTML page with the worst outcomes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lmms_kvtp.compare.measure import FULL, Kept, MethodOutcome, Picture
from lmms_kvtp.leaderboard.stats import MISSING, Estimate, estimate, shown
from lmms_kvtp.rendering import first_few
from lmms_kvtp.types import PackedTokens
from lmms_kvtp.video.frames import Video
from lmms_kvtp.visualize.page import jpeg
from lmms_kvtp.visualize.picture import DROPPED, KEPT, SmallFrames, lit, small_frames

HEADER = (
    *("method", "vision tokens", "agrees with all tokens", "right", "first-token KL", "to first token", "speed-up"),
    *("whole answer", "median, 95th percentile", "peak memory"),
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
    whole: Estimate
    """Seconds of the whole answer, in hundredths."""
    percentiles: tuple[float, float]
    """Seconds of the whole answer, median and 95th percentile; NaN where nothing was answered."""
    tokens_kept: float
    tokens_before: float
    peak_bytes: int | None
    videos: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval of agreement; NaN with a single question or video."""
        return self.agreement.mean - Z * self.agreement.stderr if self.videos > 1 else math.nan


def without_lost(outcomes: Sequence[MethodOutcome]) -> tuple[list[MethodOutcome], list[str]]:
    """Leave out questions that all tokens could not answer; the others, and what must be known of what failed.

    ValueError where nothing is left.
    """
    lost = {outcome.asked.line: outcome for outcome in outcomes if outcome.method == FULL and outcome.error is not None}
    left = [outcome for outcome in outcomes if outcome.asked.line not in lost]
    failed = [outcome for outcome in left if outcome.error is not None]
    notes = []
    for what, ones in (
        ("questions have no answer with all tokens and are left out", [*lost.values()]),
        ("answers failed and count as ones that differ", failed),
    ):
        told = [f"{one.method}, line {one.asked.line}: {one.error}" for one in ones]
        notes += [f"{len(told)} {what}: {first_few(told, 3, '; ')}"] if told else []
    if not left:
        raise ValueError(notes[0])
    return left, notes


def summarize(outcomes: Sequence[MethodOutcome]) -> list[Summary]:
    """Sum up each method, in the order of the outcomes: all tokens first."""
    names = list(dict.fromkeys(outcome.method for outcome in outcomes))
    return [_summary(name, [outcome for outcome in outcomes if outcome.method == name]) for name in names]


def _summary(name: str, own: Sequence[MethodOutcome]) -> Summary:
    labelled = [outcome for outcome in own if outcome.right is not None]
    made = [outcome for outcome in own if outcome.error is None]
    peaks = [outcome.peak_bytes for outcome in made if outcome.peak_bytes is not None]
    spread = np.percentile([outcome.seconds for outcome in made] or [math.nan], [50, 95])
    return Summary(
        name=name,
        agreement=clustered(own, [float(outcome.agrees) for outcome in own]),
        right=clustered(labelled, [float(bool(outcome.right)) for outcome in labelled]) if labelled else None,
        kl=clustered(told := [one for one in made if one.kl is not None], [one.kl or 0.0 for one in told]),
        seconds=clustered(made, [outcome.seconds_to_first for outcome in made]),
        whole=clustered(made, [outcome.seconds for outcome in made]),
        percentiles=(float(spread[0]), float(spread[1])),
        tokens_kept=sum(outcome.tokens_kept for outcome in made) / max(1, len(made)),
        tokens_before=sum(outcome.tokens_before for outcome in made) / max(1, len(made)),
        peak_bytes=max(peaks, default=None),
        videos=len({outcome.asked.video for outcome in own}),
    )


def clustered(own: Sequence[MethodOutcome], values: Sequence[float]) -> Estimate:
    """Mean of a value per question, times 100, with its standard error clustered by video."""
    return estimate(values, [str(outcome.asked.video) for outcome in own])


def rows(found: Sequence[Summary]) -> list[list[str]]:
    """Cells of the table, in the order of HEADER."""
    lines = []
    for one in found:
        share = one.tokens_kept / one.tokens_before if one.tokens_before else 1.0
        agreement = kl = gain = MISSING
        if one.name != FULL:
            agreement, kl = shown(one.agreement), shown(one.kl, 3, 100)
            gain = f"{_gain(found[0], one):.2f}x" if one.seconds.mean > 0 else MISSING
        peak = MISSING if one.peak_bytes is None else f"{one.peak_bytes / 2**30:.1f} GiB"
        tokens, seconds = f"{one.tokens_kept:.0f} ({share:.1%})", (shown(one.seconds, 2, 100), shown(one.whole, 2, 100))
        spread = MISSING if math.isnan(one.percentiles[0]) else "{:.2f}, {:.2f} s".format(*one.percentiles)
        first, whole = (text if text == MISSING else f"{text} s" for text in seconds)
        lines.append([one.name, tokens, agreement, shown(one.right), kl, first, gain, whole, spread, peak])
    return lines


def _gain(full: Summary, one: Summary) -> float:
    """How many times sooner the first token comes; 1 where nothing was measured."""
    return full.seconds.mean / one.seconds.mean if one.seconds.mean and full.seconds.mean else 1.0


def recommend(found: Sequence[Summary], wanted: float) -> str:
    """Say which method to take, why, and how sure that is.

    `found` has all tokens first; `wanted` is the agreement with all tokens, in %, that a method must be shown to have.
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
        gain = _gain(full, best)
        speed = f"the first token {gain:.2f} times sooner"
        if gain < 1:
            speed = f"{1 / gain:.2f} times the time to the first token"
        return (
            f"Take {best.name}: it agrees with all tokens on {best.agreement} % of {basis}, at least {best.low:.1f} % "
            f"with 95 % confidence, with {best.tokens_kept / best.tokens_before:.0%} of the vision tokens and {speed}."
            f"{also}{caution}"
        )
    near = max(pruned, key=lambda one: (one.agreement.mean, -one.kl.mean if one.kl.count else 0.0))
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


FRAMES = 8
"""Frames in a picture: both ends, and those that lost least."""


@dataclass(frozen=True)
class Case:
    """An outcome and its picture."""

    outcome: MethodOutcome
    frames: Sequence[Picture]
    """Frames shown; none of an outcome that failed."""


@dataclass
class Worst:
    """Collects the worst outcomes as they come, and draws only those."""

    count: int
    cases: list[Case] = field(default_factory=list)
    read: Callable[[Video], SmallFrames] = small_frames
    _last: tuple[Video, SmallFrames] | None = None

    def add(self, outcome: MethodOutcome, kept: Kept | None) -> Sequence[Picture]:
        """Keep an outcome if it is among the worst: those whose answers differ, then those of larger divergence.

        Returns its pictures, those of an earlier run where it has some; none where it is not kept.
        """
        if outcome.method == FULL or self.count == 0 or (outcome.agrees and not outcome.kl):
            return ()
        if len(self.cases) == self.count and rank(outcome) >= rank(self.cases[-1].outcome):
            return ()
        pictures = outcome.pictures
        if kept:
            if self._last is None or self._last[0] is not kept.video:
                self._last = kept.video, self.read(kept.video)
            pictures = _frames(kept.packed, self._last[1])
        self.cases.append(Case(outcome, pictures))
        self.cases.sort(key=lambda case: rank(case.outcome))
        del self.cases[self.count :]
        return pictures


def rank(outcome: MethodOutcome) -> tuple[bool, float]:
    """Sort key of an outcome, smaller if it is worse."""
    return outcome.agrees, -(outcome.kl or 0.0)


def _frames(packed: PackedTokens, frames: SmallFrames) -> list[Picture]:
    frames, capacity = frames.of_steps(packed.num_frames), packed.grid[0] * packed.grid[1]
    state = torch.full((packed.num_frames, capacity), DROPPED)
    state[packed.frame.cpu(), packed.patch.cpu()] = KEPT
    counts = packed.counts().cpu()
    ends = {0, packed.num_frames - 1}
    ranked = [t for t in counts.argsort(descending=True, stable=True).tolist() if t not in ends]
    chosen = sorted({*ends, *ranked[: FRAMES - len(ends)]})
    return [(float(frames.times[t]), int(counts[t]), jpeg(lit(frames.rgb[t], state[t], packed.grid))) for t in chosen]


TEMPLATE = Path(__file__).parent / "page.html"
"""Page with the summaries, all tokens first, the worst cases and the recommendation."""
