"""A board as one HTML page that needs no network. Every text in it is escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.cells import Cell
from lmms_kvtp.leaderboard.costs import CostSummary
from lmms_kvtp.leaderboard.formats import MISSING, commit, percent, shown
from lmms_kvtp.leaderboard.plots import plots
from lmms_kvtp.leaderboard.reported import Reported
from lmms_kvtp.leaderboard.stats import Estimate
from lmms_kvtp.leaderboard.verdicts import Comparison

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
