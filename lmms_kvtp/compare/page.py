"""A comparison on one's own data as one HTML page, with pictures of the worst outcomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lmms_kvtp.compare.measure import FULL, Kept, MethodOutcome
from lmms_kvtp.compare.summary import HEADER, Summary, rows
from lmms_kvtp.rendering import page
from lmms_kvtp.types import PackedTokens
from lmms_kvtp.video.frames import Video
from lmms_kvtp.visualize.page import jpeg
from lmms_kvtp.visualize.picture import DROPPED, KEPT, SmallFrames, lit, small_frames

FRAMES = 8
"""Frames in a picture: both ends, and those that lost least."""


@dataclass(frozen=True)
class Case:
    """An outcome and its picture."""

    outcome: MethodOutcome
    frames: list[tuple[float, int, str]]
    """Seconds, kept tokens, and a JPEG in base64 of each frame shown."""


@dataclass
class Worst:
    """Collects the worst outcomes as they come, and draws only those."""

    count: int
    cases: list[Case] = field(default_factory=list)
    read: Callable[[Video], SmallFrames] = small_frames
    _last: tuple[Video, SmallFrames] | None = None

    def add(self, outcome: MethodOutcome, kept: Kept) -> None:
        """Keep an outcome if it is among the worst: those whose answers differ, then those of larger divergence."""
        if outcome.method == FULL or self.count == 0 or (outcome.agrees and outcome.kl == 0):
            return
        if len(self.cases) == self.count and rank(outcome) >= rank(self.cases[-1].outcome):
            return
        if self._last is None or self._last[0] is not kept.video:
            self._last = kept.video, self.read(kept.video)
        self.cases.append(Case(outcome, _frames(kept.packed, self._last[1])))
        self.cases.sort(key=lambda case: rank(case.outcome))
        del self.cases[self.count :]


def rank(outcome: MethodOutcome) -> tuple[bool, float]:
    """Sort key of an outcome, smaller if it is worse."""
    return outcome.agrees, -outcome.kl


def _frames(packed: PackedTokens, frames: SmallFrames) -> list[tuple[float, int, str]]:
    capacity = packed.grid[0] * packed.grid[1]
    state = torch.full((packed.num_frames, capacity), DROPPED)
    state[packed.frame.cpu(), packed.patch.cpu()] = KEPT
    counts = packed.counts().cpu()
    ends = {0, packed.num_frames - 1}
    ranked = [t for t in counts.argsort(descending=True, stable=True).tolist() if t not in ends]
    chosen = sorted({*ends, *ranked[: FRAMES - len(ends)]})
    return [(float(frames.times[t]), int(counts[t]), jpeg(lit(frames.rgb[t], state[t], packed.grid))) for t in chosen]


TEMPLATE = Path(__file__).parent / "page.html"


def to_html(found: Sequence[Summary], cases: Sequence[Case], advice: str, data: str, model: str, toy: bool) -> str:
    """Render the page.

    Args:
        found: summaries of the methods, all tokens first.
        cases: the worst outcomes.
        advice: the recommendation.
        data: name of the file of questions.
        model: name of the checkpoint.
        toy: the embedded model answered.
    """
    return page(
        TEMPLATE,
        header=HEADER,
        rows=rows(found),
        questions=found[0].agreement.count,
        videos=found[0].videos,
        cases=cases,
        advice=advice,
        data=data,
        model=model,
        toy=toy,
    )
