"""A board as one HTML page, with plots of accuracy against cost."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lmms_kvtp.cost.mean import MeanCost
from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.discover import LeftOut
from lmms_kvtp.leaderboard.provenance import Reported
from lmms_kvtp.leaderboard.results import Band
from lmms_kvtp.leaderboard.stats import MISSING, Estimate, overlap, shown, told
from lmms_kvtp.leaderboard.tables import commit, percent
from lmms_kvtp.leaderboard.verdicts import Comparison
from lmms_kvtp.rendering import drawing, page, to_pdf, to_svg

TEMPLATE, SAMPLES, REAL = (Path(__file__).parent / f"{name}.html" for name in ("page", "samples", "real"))
Breakdown = tuple[str, str, list[str], list[tuple[str, list[Estimate | None]]]]
"""Title, task, names of the columns, and the lines of a table: a row's title and its accuracies."""
AXES: Mapping[str, Callable[[MeanCost], float | None]] = {
    "vision tokens kept (%)": lambda cost: 100 * cost.keep_ratio,
    "TFLOPs, 1 question a video": lambda cost: cost.tera_flops(1),
    "TFLOPs a question, 4 on a video": lambda cost: cost.tera_flops(4),
    "seconds per question": lambda cost: None if cost.swept else cost.seconds,
    "peak memory (GiB)": lambda cost: None if cost.peak_bytes is None else cost.peak_bytes / 2**30,
}
"""Label of a plot's horizontal axis -> the cost that it shows."""
LISTED = 24
"""Most rows for which a legend has room."""
LABEL = 36
"""Most characters of a row's name in a legend of two columns."""
MARK = 6.0
"""Width of a mark, in points of 1/72 inch."""
Drawing = tuple[str, bytes]
"""A plot as SVG text, to stand inside a page, and as PDF."""


def to_html(
    board: Board,
    published: Sequence[Reported],
    judged: Mapping[str, Sequence[Comparison]],
    drawn: Mapping[str, Mapping[str, Drawing]] | None = None,
    bands: Mapping[tuple[str, str], Band] | None = None,
    samples: bool = False,
    real: bool = False,
) -> str:
    """Render the board; apart from it, where it is no toy, the rows that papers report.

    Args:
        board: the rows.
        published: what papers report.
        judged: verdicts by task.
        drawn: what `plots` made of the board, where it was called before.
        bands: what `results.bands` found of stored results, by title of a row and task.
        samples: whether a page of single questions lies beside this one.
        real: whether the board of real weights does.
    """
    return page(
        TEMPLATE,
        board=board,
        toy=toy(board),
        bands=bands or {},
        samples=samples,
        real=real,
        fixed=Markup(" data-fixed" if toy(board) else ""),
        titles=[row.title for row in board.rows],
        verdicts={(task, one.name): one for task, found in judged.items() for one in found},
        ratios=list(dict.fromkeys(percent(row.provenance.keep_ratio) for row in board.rows)),
        plots=plots(board) if drawn is None else drawn,  # matplotlib escapes the texts in its SVG
        breakdowns=_breakdowns(board),
        judged=judged,
        published=published,
        benchmarks=list(dict.fromkeys(name for row in published for name in row.scores)),
        percent=percent,
        commit=commit,
        estimate=_estimate,
        told=told,
    )


def real_weights(proofs: Sequence[Mapping[str, Any]], left: Sequence[LeftOut]) -> str:
    """Render the board of real weights, which says how a proof is added, and that there is none where it is so."""
    loaded = [proof["steps"]["load"]["found"] or {} for proof in proofs]
    marks = {(load.get("pretrained"), load.get("weights")) for load in loaded}
    return page(REAL, proofs=proofs, left=left, agrees=agrees, marks=marks)


def agrees(proof: Mapping[str, Any]) -> bool:
    """Whether some logits were compared with a reference, and none was too far off: only then are rows shown."""
    compared = [proof["steps"][name]["found"] or {} for name in ("published_logits", "transformers_logits")]
    checks = [check for found in compared for check in found.get("checks", ())]
    far = [check for check in checks if check["difference"] is None or check["difference"] > check["allowed"]]
    return bool(checks) and not far


def toy(board: Board) -> bool:
    """Whether a board shows how the code behaves, and no method's worth: a row of it is of the embedded model."""
    return any(row.provenance.toy for row in board.rows)


def _estimate(estimate: Estimate | None, signed: bool = False, kind: str = "") -> Markup:
    text = shown(estimate)
    cell = Markup('<td class="{}" data-value="{}">' if kind else '<td{} data-value="{}">')
    if estimate is None or text == MISSING:
        return cell.format(kind, "") + Markup("-</td>")
    mean, _, error = text.partition(" ± ")
    sign = "+" if signed and estimate.mean > 0 else ""
    return cell.format(kind, estimate.mean) + Markup('{}{} <span class="se">± {}</span></td>').format(sign, mean, error)


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
        kept = [(row.title, run) for row in board.rows if task in row.scores and (run := row.scores[task].run)]
        kept = [] if len(kept) > LISTED else [(name, run) for name, run in kept if any(a.kept for a in run.answers)]
        pairs = [(name, [overlap(run, other) for _, other in kept]) for name, run in kept]
        if pairs:
            title = "tokens that two rows both keep, in % of those of the one that keeps fewer"
            tables.append((title, task, [name for name, _ in kept], pairs))
    return tables


@dataclass(frozen=True)
class Point:
    """A row in a plot."""

    name: str
    x: float
    y: float
    error: float
    method: str = ""
    """Rows of one method, at several ratios, have one line."""
    color: Any = "C0"
    """That of the method, in all plots of a board."""
    shape: str = "o"
    """That of the ratio, in all plots of a board."""
    unpruned: bool = False


def plots(board: Board) -> dict[str, dict[str, Drawing]]:
    """Plots by task and axis; axes with nothing to show are left out."""
    drawn: dict[str, dict[str, Drawing]] = {}
    for task in board.tasks:
        for axis in AXES:
            visible = points(board.rows, task, axis)
            if visible:
                drawn.setdefault(task, {})[axis] = draw(visible, axis, task, toy(board))
    return drawn


def points(rows: Sequence[Row], task: str, axis: str) -> list[Point]:
    """Rows that can be drawn for a task: those with an accuracy, and with the cost that the axis shows."""
    from matplotlib import colormaps

    methods = list(dict.fromkeys(row.name for row in rows))
    ratios = list(dict.fromkeys(row.provenance.keep_ratio for row in rows))
    found = []
    for row in rows:
        score, number = row.scores.get(task), methods.index(row.name)
        value = AXES[axis](score.cost) if score is not None and score.cost is not None else None
        if score is not None and value is not None and not math.isnan(score.accuracy.mean):
            error = 0.0 if math.isnan(score.accuracy.stderr) else score.accuracy.stderr
            color = f"C{number}" if len(methods) <= 10 else colormaps["turbo"]((number + 0.5) / len(methods))
            look = row.name, color, "osD^v<>P*X"[ratios.index(row.provenance.keep_ratio) % 10], row.provenance.unpruned
            found.append(Point(row.title, float(value), score.accuracy.mean, error, *look))
    return found


def draw(visible: Sequence[Point], axis: str, task: str, plain: bool = False) -> Drawing:
    """One plot; the title of each mark is what the pointer shows over it."""
    listed = len(visible) <= LISTED
    with drawing(5.6, 3.4 + (0.2 * math.ceil((len(visible) + 1) / 2) if listed else 0)) as figure:
        axes = figure.subplots()
        plot(axes, visible, axis, plain)
        axes.set_xlabel(axis)
        axes.set_ylabel(f"accuracy on {task} (%)")
        if listed:
            figure.legend(fontsize=8, loc="outside lower center", ncols=2)
        svg, pdf = to_svg(figure), to_pdf(figure)
    for number, point in enumerate(visible):
        told = point.name, shown(Estimate(point.y, point.error, 0)), point.x
        title = Markup("<title>{}: {} % at {:.4g}</title>").format(*told)
        svg = svg.replace(f'<g id="point-{number}">', f"<g>{title}", 1)
    return svg, pdf


def plot(axes: Any, shown: Sequence[Point], axis: str, plain: bool = False) -> None:
    """Draw rows at their values, each with a bar of one standard error.

    Over the share of tokens, the rows of a method are joined by a line with a band of one standard error, and all
    tokens are a level; over a cost, a front joins what nothing cheaper beats, unless the plot is to be `plain`. Rows
    of one cost, to a hundredth of the axis, are moved by less than half a mark on paper, and their values are not.
    """
    from matplotlib.transforms import ScaledTranslation

    for method in dict.fromkeys(p.method for p in shown) if axis == next(iter(AXES)) else ():
        own = sorted((p for p in shown if p.method == method), key=lambda p: p.x)
        if own[0].unpruned:
            axes.axhline(own[0].y, color=own[0].color, lw=1, ls="--")
            axes.axhspan(own[0].y - own[0].error, own[0].y + own[0].error, color=own[0].color, alpha=0.08, lw=0)
        elif len(own) > 1:
            x, low, high = [p.x for p in own], [p.y - p.error for p in own], [p.y + p.error for p in own]
            axes.plot(x, [p.y for p in own], color=own[0].color, lw=1)
            axes.fill_between(x, low, high, color=own[0].color, alpha=0.12, lw=0)
    front = [] if plain or axis == next(iter(AXES)) else pareto(shown)
    if front:
        axes.step([p.x for p in front], [p.y for p in front], where="post", color="#888888", lw=1, label="Pareto front")
    start, end = min(p.x for p in shown), max(p.x for p in shown)
    places = [round(100 * (p.x - start) / (end - start or 1.0)) for p in shown]
    for number, point in enumerate(shown):
        rank, count = places[:number].count(places[number]), places.count(places[number])
        label = point.name if len(point.name) <= LABEL else f"{point.name[: LABEL - 1]}…"
        look = {"fmt": point.shape, "ms": MARK, "color": point.color, "lw": 1, "mfc": "none", "label": label}
        bars = axes.errorbar([point.x], [point.y], yerr=[point.error], **look)
        bars.lines[0].set_gid(f"point-{number}")
        moved = ScaledTranslation(MARK / 72 * ((rank + 0.5) / count - 0.5), 0, axes.figure.dpi_scale_trans)
        for artist in bars.get_children():  # behind errorbar, which finds the limits of the axes
            artist.set_transform(artist.get_transform() + moved)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other point beats in both cost and accuracy, from cheap to expensive."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y or (point.x, point.y) == (front[-1].x, front[-1].y):
            front.append(point)
    return front
