"""A board as one HTML page that needs no network. Every text in it is escaped."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.provenance import Reported
from lmms_kvtp.leaderboard.runs import CostSummary
from lmms_kvtp.leaderboard.stats import Estimate
from lmms_kvtp.leaderboard.tables import MISSING, commit, percent, shown
from lmms_kvtp.leaderboard.task_score import Cell
from lmms_kvtp.leaderboard.verdicts import Comparison
from lmms_kvtp.rendering import drawing, to_svg

AXES: Mapping[str, Callable[[CostSummary], float | None]] = {
    "vision tokens that entered the language model": lambda cost: cost.tokens_kept,
    "TFLOPs per question": lambda cost: None if cost.flops is None else cost.flops / 1e12,
    "seconds per question": lambda cost: None if cost.swept else cost.seconds,
}


LISTED = 24
"""Rows for which a legend has room."""
LABEL = 36
"""Characters of a row's name in a legend of two columns."""
NEAR = 0.01
"""Share of the axis below which costs count as equal."""
APART, WIDEST = 7.0, 42.0
"""Points of print between rows of equal cost, and from the first to the last of them."""


@dataclass(frozen=True)
class Point:
    """A row in a plot."""

    name: str
    x: float
    y: float
    error: float
    number: int = 0
    """Of its row on the board: the same colour in every plot."""


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both cost and accuracy, from cheap to dear."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y or (point.x, point.y) == (front[-1].x, front[-1].y):
            front.append(point)
    return front


def points(rows: Sequence[Row], task: str, axis: str) -> list[Point]:
    """What of a task can be drawn: rows with cost, and with a number for it."""
    found = []
    for number, row in enumerate(rows):
        cell = row.cells.get(task)
        value = AXES[axis](cell.cost) if cell is not None and cell.cost is not None else None
        if cell is not None and value is not None and not math.isnan(cell.accuracy.mean):
            error = 0.0 if math.isnan(cell.accuracy.stderr) else cell.accuracy.stderr
            found.append(Point(row.title, float(value), cell.accuracy.mean, error, number))
    return found


def plots(board: Board) -> dict[str, dict[str, str]]:
    """SVG text by task and axis; axes for which there is nothing are left out."""
    drawn: dict[str, dict[str, str]] = {}
    for task in board.tasks:
        for axis in AXES:
            shown = points(board.rows, task, axis)
            if shown:
                drawn.setdefault(task, {})[axis] = draw(shown, axis, task)
    return drawn


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
            _mark(axes, point, f"C{point.number % 10}", "os^Dv<>P*X"[point.number // 10 % 10], best, right)
        axes.set_xlabel(axis)
        axes.set_ylabel(f"accuracy on {task} (%)")
        axes.margins(x=0.08)
        # marks that are moved aside do not count for the axes by themselves
        axes.update_datalim([(p.x, p.y + sign * p.error) for p in shown for sign in (-1, 1)])
        axes.autoscale_view()
        if listed:
            figure.legend(fontsize=8, loc="outside lower center", ncols=2)
        return to_svg(figure)


def side_by_side(shown: Sequence[Point]) -> list[float]:
    """How far to the right of its place each is drawn, in points of print: rows of equal cost hide one another."""
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


def _mark(axes: Any, point: Point, color: str, marker: str, best: bool, right: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    label = point.name if len(point.name) <= LABEL else f"{point.name[: LABEL - 1]}…"
    moved = axes.transData + ScaledTranslation(right / 72, 0, axes.figure.dpi_scale_trans)
    axes.errorbar(
        [point.x], [point.y], yerr=[point.error], fmt=marker, ms=7 if best else 5, color=color, capsize=2, lw=1,
        markerfacecolor=color if best else "none", label=label, transform=moved,
    )  # fmt: skip


TEMPLATE = Path(__file__).parent / "page.html"
Table = tuple[str, str, list[str], list[tuple[str, list[Estimate | None]]]]


def to_html(board: Board, published: Sequence[Reported], judged: Mapping[str, Sequence[Comparison]]) -> str:
    """The whole page."""
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        board=board,
        toy=any(row.provenance.toy for row in board.rows),
        ratios=list(dict.fromkeys(percent(row.provenance.keep_ratio) for row in board.rows)),
        costs=[_cost(row) for row in board.rows],
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


def _cost(row: Row) -> CostSummary | None:
    """The cost on the first task that has any; per task it stands in the CSV file."""
    return next((found.cost for found in row.cells.values() if found.cost is not None), None)


def _breakdowns(board: Board) -> list[Table]:
    tables: list[Table] = []
    for task in board.tasks:
        cells = [(row.title, row.cells[task]) for row in board.rows if task in row.cells]
        for title, part in (("by kind of question", _kinds), ("by sparsity of key frames", _sparsities)):
            names = sorted({name for _, found in cells for name in part(found)})
            if names:
                lines = [(row, [part(found).get(name) for name in names]) for row, found in cells]
                tables.append((title, task, names, lines))
    return tables


def _kinds(found: Cell) -> Mapping[str, Estimate]:
    return found.kinds


def _sparsities(found: Cell) -> Mapping[str, Estimate]:
    return found.sparsities
