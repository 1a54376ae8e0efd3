"""A board as Markdown and LaTeX."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, mean

from lmms_kvtp.cost.sample import timed
from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.provenance import Reported
from lmms_kvtp.leaderboard.runs import CostSummary, Run
from lmms_kvtp.leaderboard.stats import Estimate, accuracy, difference
from lmms_kvtp.leaderboard.verdicts import Comparison, verdict_table
from lmms_kvtp.rendering import markdown

MISSING = "-"
LATEX = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\n": " ",
}


def shown(estimate: Estimate | None) -> str:
    """`77.1 ± 1.4`; a dash for what is not known."""
    if estimate is None or math.isnan(estimate.mean):
        return MISSING
    return f"{estimate.mean:.1f} ± {MISSING if math.isnan(estimate.stderr) else f'{estimate.stderr:.1f}'}"


def percent(ratio: float | None) -> str:
    """`20.0%`; a dash for what is not known."""
    return MISSING if ratio is None else f"{ratio:.1%}"


def to_markdown(board: Board, published: Sequence[Reported], judged: Mapping[str, Sequence[Comparison]]) -> str:
    """The table, what is left out, notes, verdicts, the exact commands, and published rows in a table of their own."""
    header = ["method", "asked", "kept", *board.tasks, "relative", "TFLOPs", "seconds", "gates", "commit"]
    rows = [_markdown_row(row, board.tasks) for row in board.rows]
    notes = [*board.notes, *(f"left out: {item.what}: {item.why}" for item in board.left)]
    parts = ["# Leaderboard", markdown(header, rows), "Accuracy in %, ± standard error clustered by video."]
    parts += ["\n".join(f"- {_plain(note)}" for note in notes)] if notes else []
    for task, comparisons in judged.items():
        parts += [f"## Against all tokens: {_plain(task)}", verdict_table(comparisons)]
    commands = [[row.name, f"`{command}`"] for row in board.rows for command in row.commands]
    parts += ["## Commands", markdown(["method", "command"], commands)]
    parts += ["## Reported by papers, not measured here", _markdown_reported(published)]
    return "\n\n".join(parts) + "\n"


def to_latex(board: Board) -> str:
    """A booktabs table: rows by ratio, columns by benchmark, mean relative accuracy with its standard error."""
    lines = [r"% needs \usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * (len(board.tasks) + 2)}}}", r"\toprule"]
    lines.append(_latex(["Method", "Kept", *board.tasks, "Rel. avg. (%)"]))
    ratio: object = ""
    for row in board.rows:
        if row.provenance.keep_ratio != ratio:
            ratio = row.provenance.keep_ratio
            title = f"asked to keep {percent(ratio)}" if isinstance(ratio, float | int) else "ratio not recorded"
            lines += [
                r"\midrule",
                rf"\multicolumn{{{len(board.tasks) + 3}}}{{l}}{{\textit{{{escape_latex(title)}}}}} \\",
            ]
        scores = [shown(row.cells[task].accuracy) if task in row.cells else MISSING for task in board.tasks]
        lines.append(_latex([row.name, percent(row.keep_ratio), *scores, shown(row.relative)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def escape_latex(text: str) -> str:
    """Make every character stand for itself."""
    return "".join(LATEX.get(character, character) for character in text)


def _markdown_row(row: Row, tasks: Sequence[str]) -> list[str]:
    scores = [shown(row.cells[task].accuracy) if task in row.cells else MISSING for task in tasks]
    costs = [found.cost for found in row.cells.values() if found.cost is not None]
    flops = [cost.flops for cost in costs if cost.flops is not None]
    return [
        row.name,
        percent(row.provenance.keep_ratio),
        percent(row.keep_ratio),
        *scores,
        shown(row.relative),
        f"{sum(flops) / len(flops) / 1e12:.3g}" if flops else MISSING,
        _seconds(costs),
        row.gates,
        commit(row),
    ]


def _seconds(costs: Sequence[CostSummary]) -> str:
    """The mean over tasks; marked where any of it is of a sweep."""
    if not costs:
        return MISSING
    mean = fmean([cost.seconds for cost in costs])
    return replace(costs[0], seconds=mean, swept=any(cost.swept for cost in costs)).seconds_text


def commit(row: Row) -> str:
    """The commit, and whether there were changes beside it."""
    changed = " + changes" if row.provenance.dirty else ""
    return f"{row.provenance.commit[:10]}{changed}" or MISSING


def _markdown_reported(published: Sequence[Reported]) -> str:
    benchmarks = list(dict.fromkeys(name for row in published for name in row.scores))
    header = ["model", "method", "keep", *benchmarks, "relative", "FLOPs %", "source"]
    rows = [
        [row.model, row.method, percent(row.keep_ratio), *(f"{row.scores.get(name, MISSING)}" for name in benchmarks)]
        + [f"{MISSING if value is None else value}" for value in (row.relative, row.relative_flops)]
        + [f"reported: {row.source}" + (f"; {row.note}" if row.note else "")]
        for row in published
    ]
    return markdown(header, rows)


def _latex(cells: Sequence[str]) -> str:
    return " & ".join(escape_latex(cell) for cell in cells) + r" \\"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def summary(runs: Sequence[Run]) -> str:
    """A Markdown table: one row per run, with differences against the first run, the unpruned model.

    Accuracy is in points of 100 with standard errors clustered by video; tokens and seconds are means per question,
    from costs that were measured in the run, seconds without its warm-up.
    """
    kinds = sorted({record.kind for record in runs[0].records} - {""})
    header = ["method", "vision tokens kept", "of all", "accuracy", "against all tokens", "seconds", *kinds]
    return markdown(header, [_row(run, runs[0], kinds) for run in runs])


def _row(run: Run, baseline: Run, kinds: Sequence[str]) -> list[str]:
    costs = [record.cost for record in run.records if record.cost is not None]
    cells = [run.name]
    if costs:
        kept, before = mean(cost.tokens_kept for cost in costs), mean(cost.tokens_before for cost in costs)
        cells += [f"{kept:.0f}", f"{kept / before:.1%}"]
    else:
        cells += [MISSING, MISSING]
    cells += [str(accuracy(run)), MISSING if run is baseline else f"{difference(run, baseline)}"]
    cells += [f"{mean(cost.seconds_total for cost in timed(costs)):.2f}" if costs else MISSING]
    return cells + [f"{accuracy(run.of_kind(kind)).mean:.0f}" for kind in kinds]


def problems(runs: Sequence[Run]) -> list[str]:
    """What a reader of the table must know: samples that failed or carry no cost."""
    notes = []
    for run in runs:
        failed = sum(record.error is not None for record in run.records)
        costless = sum(record.cost is None for record in run.records) - failed
        if failed:
            notes.append(f"{run.name}: {failed} of {len(run.records)} questions could not be answered, counted wrong")
        if costless > 0:
            notes.append(f"{run.name}: {costless} of {len(run.records)} answers came from a cache, without cost")
    return notes
