"""A board as one HTML page, with plots of accuracy against cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.provenance import Reported
from lmms_kvtp.leaderboard.runs import MeanCost
from lmms_kvtp.leaderboard.stats import MISSING, Estimate, shown
from lmms_kvtp.leaderboard.tables import commit, percent
from lmms_kvtp.leaderboard.verdicts import Comparison
from lmms_kvtp.rendering import drawing, page, to_svg

TEMPLATE = Path(__file__).parent / "page.html"
Breakdown = tuple[str, str, list[str], list[tuple[str, list[Estimate | None]]]]
"""Title, task, names of the columns, and the lines of a table: a row's title and its accuracies."""
AXES: Mapping[str, Callable[[MeanCost], float | None]] = {
    "vision tokens that entered the language model": lambda cost: cost.tokens_kept,
    "TFLOPs per question": lambda cost: None if cost.flops is None else cost.flops / 1e12,
    "seconds per question": lambda cost: None if cost.swept else cost.seconds,
}
"""Label of a plot's horizontal axis -> the cost that it shows."""
LISTED = 24
"""Most rows for which a legend has room."""
LABEL = 36
"""Most characters of a row's name in a legend of two columns."""
NEAR = 0.01
"""Share of the axis below which costs count as equal."""
APART, WIDEST = 7.0, 42.0
"""Points of print between rows of equal cost, and from the first to the last of them."""


def to_html(board: Board, published: Sequence[Reported], judged: Mapping[str, Sequence[Comparison]]) -> str:
    """Render the board, with the verdicts by task and, apart from it, the rows that papers report."""
    return page(
        TEMPLATE,
        board=board,
        toy=any(row.provenance.toy for row in board.rows),
        ratios=list(dict.fromkeys(percent(row.provenance.keep_ratio) for row in board.rows)),
        costs=[next(iter(row.costs), None) for row in board.rows],
        plots=plots(board),  # matplotlib escapes the texts in its SVG
        breakdowns=_breakdowns(board),
        judged=judged,
        published=published,
        benchmarks=list(dict.fromkeys(name for row in published for name in row.scores)),
        percent=percent,
        commit=commit,
        estimate=_estimate,
    )


def _estimate(estimate: Estimate | None, signed: bool = False) -> Markup:
    text = shown(estimate)
    if estimate is None or text == MISSING:
        return Markup('<td data-value="">-</td>')
    mean, _, error = text.partition(" ± ")
    sign = "+" if signed and estimate.mean > 0 else ""
    return Markup('<td data-value="{}">{}{} <span class="se">± {}</span></td>').format(estimate.mean, sign, mean, error)


def _breakdowns(board: Board) -> list[Breakdown]:
    tables: list[Breakdown] = []
    for task in board.tasks:
        scores = [(row.title, row.scores[task]) for row in board.rows if task in row.scores]
        for title, groups in (
            ("by kind of question", [(row, found.kinds) for row, found in scores]),
            ("by sparsity of key frames", [(row, found.sparsities) for row, found in scores]),
        ):
            names = sorted({name for _, found in groups for name in found})
            if names:
                lines = [(row, [found.get(name) for name in names]) for row, found in groups]
                tables.append((title, task, names, lines))
    return tables


def plots(board: Board) -> dict[str, dict[str, str]]:
    """SVG text by task and axis; axes with nothing to show are left out."""
    drawn: dict[str, dict[str, str]] = {}
    for task in board.tasks:
        for axis in AXES:
            visible = points(board.rows, task, axis)
            if visible:
                drawn.setdefault(task, {})[axis] = draw(visible, axis, task)
    return drawn


@dataclass(frozen=True)
class Point:
    """A row in a plot."""

    name: str
    x: float
    y: float
    error: float
    number: int = 0
    """Number of its row on the board, which gives it one color in all plots."""


def points(rows: Sequence[Row], task: str, axis: str) -> list[Point]:
    """Rows that can be drawn for a task: those with an accuracy, and with the cost that the axis shows."""
    found = []
    for number, row in enumerate(rows):
        score = row.scores.get(task)
        value = AXES[axis](score.cost) if score is not None and score.cost is not None else None
        if score is not None and value is not None and not math.isnan(score.accuracy.mean):
            error = 0.0 if math.isnan(score.accuracy.stderr) else score.accuracy.stderr
            found.append(Point(row.title, float(value), score.accuracy.mean, error, number))
    return found


def draw(shown: Sequence[Point], axis: str, task: str) -> str:
    """One plot as SVG without the XML head, to stand inside a page."""
    listed = len(shown) <= LISTED
    with drawing(5.6, 3.4 + (0.2 * math.ceil((len(shown) + 1) / 2) if listed else 0)) as figure:
        axes = figure.subplots()
        front = pareto(shown)
        steps = [p.x for p in front], [p.y for p in front]
        axes.step(*steps, where="post", color="#888888", lw=1, ls="--", label="Pareto front")
        for point, right in zip(shown, side_by_side(shown), strict=True):
            best = any(point is other for other in front)
            mark(axes, point, f"C{point.number % 10}", "os^Dv<>P*X"[point.number // 10 % 10], best, right)
        axes.set_xlabel(axis)
        axes.set_ylabel(f"accuracy on {task} (%)")
        axes.margins(x=0.08)
        # matplotlib does not make room for marks that were moved aside
        axes.update_datalim([(p.x, p.y + sign * p.error) for p in shown for sign in (-1, 1)])
        axes.autoscale_view()
        if listed:
            figure.legend(fontsize=8, loc="outside lower center", ncols=2)
        return to_svg(figure)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other point beats in both cost and accuracy, from cheap to expensive."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y or (point.x, point.y) == (front[-1].x, front[-1].y):
            front.append(point)
    return front


def side_by_side(shown: Sequence[Point]) -> list[float]:
    """Shift of each mark to the right, in points of print, without which rows of equal cost would hide each other."""
    near = NEAR * (max(point.x for point in shown) - min(point.x for point in shown))
    groups: list[list[int]] = []
    for place in sorted(range(len(shown)), key=lambda place: shown[place].x):
        if groups and shown[place].x - shown[groups[-1][0]].x <= near:
            groups[-1].append(place)
        else:
            groups.append([place])
    moved = [0.0] * len(shown)
    for group in groups:
        step = min(APART, WIDEST / len(group))
        for number, place in enumerate(group):
            moved[place] = step * (number - (len(group) - 1) / 2)
    return moved


def mark(axes: Any, point: Point, color: str, marker: str, best: bool, right: float) -> None:
    """Draw a row with a bar of one standard error, `right` points of print beside its place; filled if `best`."""
    from matplotlib.transforms import ScaledTranslation

    label = point.name if len(point.name) <= LABEL else f"{point.name[: LABEL - 1]}…"
    moved = axes.transData + ScaledTranslation(right / 72, 0, axes.figure.dpi_scale_trans)
    axes.errorbar(
        [point.x], [point.y], yerr=[point.error], fmt=marker, ms=7 if best else 5, color=color, capsize=2, lw=1,
        markerfacecolor=color if best else "none", label=label, transform=moved,
    )  # fmt: skip
