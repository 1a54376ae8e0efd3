"""Whether a method is better than the unpruned model, worse, or one cannot tell: in numbers and in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from lmms_kvtp.leaderboard import stats
from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.leaderboard.stats import Estimate, Flips
from lmms_kvtp.rendering import markdown

LEVEL = 0.05
"""Corrected p-value below which a difference counts."""
MOST = 40
"""Rows of one task that are judged at most: each costs a bootstrap, and correction for more leaves little to see."""


@dataclass(frozen=True)
class Comparison:
    """One method against the baseline, on the same questions."""

    name: str
    difference: Estimate
    """Difference in points, standard error clustered by video."""
    interval: tuple[float, float]
    """95 % interval in points, by bootstrap over videos."""
    videos: int
    flips: Flips | None
    """Questions gained and lost; None where scores are not right or wrong."""
    p_value: float
    """Larger p-value of the clustered t-test and McNemar's test: both must see a difference."""
    p_corrected: float
    """p-value after Holm's correction over all methods that were compared together."""
    detectable: float
    """Smallest difference, in points, that so many questions show in 4 of 5 cases."""
    needed: int | None
    """Questions that would show a difference as large as the one found, in 4 of 5 cases."""

    @property
    def verdict(self) -> Literal["better", "worse", "can't tell"]:
        """The verdict in a word or two."""
        if not self.p_corrected < LEVEL:  # NaN too
            return "can't tell"
        return "better" if self.difference.mean > 0 else "worse"

    @property
    def words(self) -> str:
        """The verdict in a sentence: what was found, and what it would take to find more."""
        gap, count = self.difference, self.difference.count
        found = f"{gap.mean:+.1f} ± {gap.stderr:.1f} points on {count} questions"
        if self.verdict != "can't tell":
            return f"{self.verdict}: {found}, p = {self.p_corrected:.2g} after correction"
        if math.isnan(self.p_value):
            return f"can't tell: {count} questions on {self.videos} videos are too few for an error"
        if not gap.stderr and not gap.mean:
            return f"can't tell: both answered every question equally well, {count} in all"
        if self.needed is None:
            return f"can't tell: {found}; {self.detectable:.1f} points would show"
        if self.needed <= count:
            return f"can't tell: {found}, p = {self.p_corrected:.2g} after correction for several methods"
        return f"can't tell: {found}; as large a difference would take about {self.needed} questions to show"


def compare(runs: Sequence[Run], baseline: Run) -> list[Comparison]:
    """Compare runs with a baseline, correcting for their number; raises as `difference` does."""
    found = []
    for run in runs:
        gap, changes = stats.difference(run, baseline), stats.flips(run, baseline)
        videos = len({answer.video for answer in run.answers})
        p = stats.p_value(gap, videos)
        if changes is not None and not math.isnan(p):
            p = max(p, changes.p_value)
        interval, least = stats.bootstrap_interval(run, baseline), stats.detectable(gap)
        needed = stats.questions_needed(gap)
        found.append(Comparison(run.title, gap, interval, videos, changes, p, p, least, needed))
    corrected = stats.holm([comparison.p_value for comparison in found])
    return [replace(comparison, p_corrected=p) for comparison, p in zip(found, corrected, strict=True)]


def verdict_table(comparisons: Sequence[Comparison]) -> str:
    """A Markdown table of comparisons."""
    header = ["method", "difference", "95 %", "gained / lost", "McNemar p", "p, corrected", "detectable", "verdict"]
    return markdown(header, [_row(comparison) for comparison in comparisons])


def _row(comparison: Comparison) -> list[str]:
    low, high = comparison.interval
    changes = comparison.flips
    return [
        comparison.name,
        f"{comparison.difference.mean:+.1f} ± {comparison.difference.stderr:.1f}",
        f"{low:+.1f} to {high:+.1f}",
        f"{changes.gained} / {changes.lost}" if changes else "-",
        f"{changes.p_value:.2g}" if changes else "-",
        f"{comparison.p_corrected:.2g}",
        f"{comparison.detectable:.1f}",
        comparison.words,
    ]


def judge(board: Board) -> dict[str, list[Comparison]]:
    """Compare the rows of each task with its unpruned model, corrected for their number; by task.

    Tasks without an unpruned model, or with more than MOST rows, are left out.
    """
    judged = {}
    for task in board.tasks:
        bases = [row for row in board.rows if row.provenance.unpruned and task in row.scores]
        if not bases:
            continue
        base, run = bases[0], _run(bases[0], task)
        others = [row for row in board.rows if task in row.scores and row.scores[task].difference is not None]
        same = [row for row in others if _model(row) == _model(base)]
        if 0 < len(same) <= MOST and run is not None:
            runs = [other for row in same if (other := _run(row, task)) is not None]
            judged[task] = compare(runs, run)
    return judged


def _run(row: Row, task: str) -> Run | None:
    run = row.scores[task].run
    return None if run is None else replace(run, name=row.title)


def _model(row: Row) -> tuple[str, str]:
    return row.provenance.model, str(row.provenance.frames)


def paired_rows(runs: Sequence[Run]) -> tuple[dict[str, Any], str]:
    """Compare each task's runs with the first, all tokens: rows of plain values, and a sentence on failed answers."""
    rows, failed = [], 0
    for task in sorted({run.task for run in runs}):
        base, *others = [run for run in runs if run.task == task]
        compared = [None, *compare(others, base)]
        for run, one in zip([base, *others], compared, strict=True):
            score, broken = stats.accuracy(run), sum(answer.error is not None for answer in run.answers)
            failed += broken
            row = {"task": task, "method": run.title, "questions": score.count, "failed": broken}
            row |= {"accuracy": score.mean, "stderr": score.stderr}
            row["tokens_kept"] = fmean(cost.tokens_kept for cost in run.costs) if run.costs else None
            row["against_all_tokens"] = one and {
                "difference": one.difference.mean,
                "stderr": one.difference.stderr,
                "interval": one.interval,
                "p_corrected": one.p_corrected,
                "verdict": one.words,
            }
            rows.append(row)
    return {"rows": rows}, f"{failed} answers failed" if failed else ""
