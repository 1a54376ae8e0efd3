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
    margin: float | None = None
    """Points within which the run's configuration calls two rows equal; None where it fixed none."""
    p_equal: float = math.nan
    """p-value of two one-sided tests of a difference beyond the margin, corrected like that of a difference."""
    resolvable: float = math.nan
    """Least margin, in points, at which equal rows are found so in 4 of 5 cases on so many questions."""
    changed: Estimate | None = None
    """Questions with another answer, in %; None where samples tell no answers."""
    floor: float | None = None
    """Questions, in %, on which all tokens answer otherwise with another batch size or phase of the frame rule."""
    overlap: Estimate | None = None
    """Tokens that both keep, in % of those of the one that keeps fewer; None where samples do not tell."""

    @property
    def verdict(self) -> Literal["better", "worse", "equal", "can't tell"]:
        """The verdict in a word or two; a difference that was found stays one, however small."""
        if self.p_corrected < LEVEL:  # never NaN
            return "better" if self.difference.mean > 0 else "worse"
        return "equal" if self.p_equal < LEVEL else "can't tell"

    @property
    def words(self) -> str:
        """The verdict in a sentence: what was found, and what it would take to find more."""
        gap, count = self.difference, self.difference.count
        found, within = f"{stats.shown(gap, sign='+')} points on {count} questions", f"{self.margin} points"
        if not count:
            return "can't tell: no such row here answered the same questions"
        if self.verdict == "equal":
            return f"equal within {within}: {found}, p = {self.p_equal:.2g} after correction"
        if self.verdict != "can't tell":
            small = f", but within {within}" if self.p_equal < LEVEL else ""
            return f"{self.verdict}{small}: {found}, p = {self.p_corrected:.2g} after correction"
        if math.isnan(self.p_value):
            return f"can't tell: {count} questions on {self.videos} videos are too few for an error"
        if not gap.stderr and not gap.mean:
            return f"can't tell: both answered every question equally well, {count} in all"
        if self.needed is None:
            return f"can't tell: {found}; {self.detectable:.1f} points would show"
        if self.needed <= count:
            return f"can't tell: {found}, p = {self.p_corrected:.2g} after correction for several methods"
        return f"can't tell: {found}; as large a difference would take about {self.needed} questions to show"

    @property
    def change(self) -> str:
        """Changed answers and their floor, such as `12.0 ± 1.5 %, 9.0 beyond the difference; floor 2.0 %`."""
        if self.changed is None:
            return stats.MISSING
        beyond = max(0.0, self.changed.mean - abs(self.difference.mean))
        floor = "floor not run" if self.floor is None else f"floor {self.floor:.1f} %"
        return f"{stats.shown(self.changed)} %, {beyond:.1f} beyond the difference; {floor}"


NONE = Estimate(math.nan, math.nan, 0)


def compare(
    runs: Sequence[Run], baseline: Run | Sequence[Run | None], margin: float | None = None, again: Sequence[Run] = ()
) -> list[Comparison]:
    """Compare runs with a baseline, correcting for their number; raises as `difference` does.

    Args:
        runs: methods.
        baseline: what each is held against, or a list of as many; None where there is no such run, which still counts
            in the correction.
        margin: points within which two count as equal, fixed before they ran.
        again: the unpruned model and further runs of it, whose changes are the floor of those of the methods.
    """
    bases = [baseline] * len(runs) if isinstance(baseline, Run) else baseline
    floors = [found.mean for other in again[1:] if (found := stats.changed(other, again[0]))]
    compared = [_compare(*pair, margin, max(floors, default=None)) for pair in zip(runs, bases, strict=True)]
    differ, same = (stats.holm([getattr(one, name) for one in compared]) for name in ("p_value", "p_equal"))
    return [replace(one, p_corrected=p, p_equal=q) for one, p, q in zip(compared, differ, same, strict=True)]


def _compare(run: Run, base: Run | None, margin: float | None, floor: float | None) -> Comparison:
    videos = len({answer.video for answer in run.answers})
    if base is None:
        return Comparison(run.title, NONE, (math.nan, math.nan), videos, None, 1.0, 1.0, math.nan, None, margin, 1.0)
    gap, changes = stats.difference(run, base), stats.flips(run, base)
    p = stats.p_value(gap, videos)
    if changes is not None and not math.isnan(p):
        p = max(p, changes.p_value)
    interval, least, needed = stats.bootstrap_interval(run, base), stats.detectable(gap), stats.questions_needed(gap)
    p_equal, resolvable = stats.equality(run, base, math.nan if margin is None else margin)
    alike = stats.changed(run, base), floor, stats.overlap(run, base)
    return Comparison(
        run.title, gap, interval, videos, changes, p, p, least, needed, margin, p_equal, resolvable, *alike
    )


def verdict_table(comparisons: Sequence[Comparison]) -> str:
    """A Markdown table of comparisons."""
    header = ["method", "difference", "95 %", "gained / lost", "McNemar p", "p, corrected", "detectable", "resolvable"]
    return markdown([*header, "answers changed", "kept alike %", "verdict"], [_row(one) for one in comparisons])


def _row(comparison: Comparison) -> list[str]:
    low, high = comparison.interval
    changes = comparison.flips
    return [
        comparison.name,
        stats.shown(comparison.difference, sign="+"),
        stats.MISSING if math.isnan(low) else f"{low:+.1f} to {high:+.1f}",
        f"{changes.gained} / {changes.lost}" if changes else "-",
        f"{changes.p_value:.2g}" if changes else "-",
        stats.told(comparison.p_corrected, ".2g"),
        stats.told(comparison.detectable),
        stats.told(comparison.resolvable),
        comparison.change,
        stats.shown(comparison.overlap),
        comparison.words,
    ]


def judge(board: Board) -> dict[str, list[Comparison]]:
    """Make the comparisons that the runs' own configurations name, corrected for their number; by task.

    A run is held against all tokens of its model unless its configuration says otherwise. Tasks without any pair, or
    with more than MOST, are left out. Rows count as equal within the margin that all of them fixed.
    """
    judged = {}
    for task in board.tasks:
        rows = [row for row in board.rows if task in row.scores]
        pairs = [pair for row in rows for pair in _contrasts(row, rows, task)]
        if 0 < len(pairs) <= MOST:
            margins = {row.provenance.verdicts.get("margin") for row, _, _ in pairs}
            margin = margins.pop() if len(margins) == 1 else None
            runs = [_run(row, task, against) for row, _, against in pairs]
            bases = [_run(base, task) if base else None for _, base, _ in pairs]
            again = next((row.scores[task].again for row in rows if row.scores[task].again), ())
            judged[task] = compare(runs, bases, margin, again)
    return judged


def _contrasts(row: Row, rows: Sequence[Row], task: str) -> list[tuple[Row, Row | None, str]]:
    """A row, each one that it is held against, and what to add to its name."""
    wanted = str(row.provenance.verdicts.get("against") or "")
    mine = row.provenance.model, row.provenance.frames
    near = [other for other in rows if other is not row and (other.provenance.model, other.provenance.frames) == mine]
    asked = _run(row, task).questions
    if not wanted:
        bases = [one for one in near if one.provenance.unpruned and _run(one, task).questions == asked]
        return [] if row.provenance.unpruned or not bases else [(row, bases[0], "")]
    pairs = []
    for name in wanted.split(";") if wanted != "none" else ():
        named = [one for one in near if one.provenance.verdicts.get("row") == name]
        same = [one for one in named if _run(one, task).questions == asked]
        pairs.append((row, same[0] if len(same) == 1 else None, f" against {name}"))
    return pairs


def _run(row: Row, task: str, added: str = "") -> Run:
    run = row.scores[task].run
    assert run is not None
    return replace(run, name=row.title + added)


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
