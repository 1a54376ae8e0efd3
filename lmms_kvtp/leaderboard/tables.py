"""A board as Markdown and LaTeX, and the short table of a few runs that sweeps and the demo print."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from lmms_kvtp.cost.mean import MeanCost, mean_cost
from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.runs import Run, lacks
from lmms_kvtp.leaderboard.stats import MISSING, accuracy, difference, shown, told
from lmms_kvtp.leaderboard.verdicts import Comparison, verdict_table
from lmms_kvtp.rendering import as_code, as_latex, as_markdown, markdown


def percent(ratio: float | None) -> str:
    """`20.0%`; a dash for what is not known."""
    return MISSING if ratio is None else f"{ratio:.1%}"


def commit(row: Row) -> str:
    """The commit, and whether there were changes beside it."""
    changed = " + changes" if row.provenance.dirty else ""
    return f"{row.provenance.commit[:10]}{changed}" or MISSING


def to_markdown(board: Board, judged: Mapping[str, Sequence[Comparison]]) -> str:
    """The table, what is left out, notes, verdicts and the exact commands."""
    header = ["method", "asked", "kept", *board.tasks, "relative", "TFLOPs", "seconds", "gates", "commit"]
    rows = [_markdown_row(row, board.tasks) for row in board.rows]
    notes = [*board.notes, *(f"left out: {item.what}: {item.why}" for item in board.left)]
    parts = ["# Leaderboard", markdown(header, rows), "Accuracy in %, ± standard error clustered by video."]
    parts += ["\n".join(f"- {as_markdown(note)}" for note in notes)] if notes else []
    for task, comparisons in judged.items():
        parts += [f"## Verdicts: {as_markdown(task)}", verdict_table(comparisons)]
    commands = [[row.name, as_code(command)] for row in board.rows for command in row.commands]
    parts += ["## Commands", markdown(["method", "command"], commands)]
    return "\n\n".join(parts) + "\n"


def _markdown_row(row: Row, tasks: Sequence[str]) -> list[str]:
    flops = [cost.flops for cost in row.costs if cost.flops is not None]
    return [
        row.name,
        percent(row.provenance.keep_ratio),
        percent(row.keep_ratio),
        *_accuracies(row, tasks),
        shown(row.relative),
        f"{sum(flops) / len(flops) / 1e12:.3g}" if flops else MISSING,
        _seconds(row.costs) if row.costs else MISSING,
        row.gates,
        commit(row),
    ]


def _accuracies(row: Row, tasks: Sequence[str]) -> list[str]:
    return [shown(row.scores[task].accuracy) if task in row.scores else MISSING for task in tasks]


def _seconds(costs: Sequence[MeanCost]) -> str:
    """The mean over tasks; marked where part of it comes from a sweep."""
    known = [cost.seconds for cost in costs if cost.seconds is not None]
    seconds, swept = fmean(known) if known else None, any(cost.swept for cost in costs)
    return replace(costs[0], seconds=seconds, swept=swept).seconds_text


def to_latex(board: Board) -> str:
    """A booktabs table: rows by ratio, columns by benchmark, mean relative accuracy with its standard error."""
    told = "Accuracy in \\%, with standard errors clustered by video"
    toy = " (TOY: an embedded model on synthetic videos)" if any(row.provenance.toy for row in board.rows) else ""
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"]
    label = re.sub("[^a-z0-9]+", "-", "-".join(board.tasks).lower()).strip("-")
    lines += [rf"\caption{{{told}{toy}.}}", rf"\label{{tab:{label}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(board.tasks) + 2)}}}", r"\toprule"]
    lines.append(_latex(["Method", "Kept", *board.tasks, "Rel. avg. (%)"]))
    ratio: object = ""
    for row in board.rows:
        if row.provenance.keep_ratio != ratio:
            ratio = row.provenance.keep_ratio
            title = f"asked to keep {percent(ratio)}" if isinstance(ratio, float | int) else "ratio not recorded"
            heading = rf"\multicolumn{{{len(board.tasks) + 3}}}{{l}}{{\textit{{{as_latex(title)}}}}} \\"
            lines += [r"\midrule", heading]
        lines.append(_latex([row.name, percent(row.keep_ratio), *_accuracies(row, board.tasks), shown(row.relative)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex(cells: Sequence[str]) -> str:
    return " & ".join(as_latex(cell) for cell in cells) + r" \\"


def summary(runs: Sequence[Run]) -> str:
    """A Markdown table: one row per run, with differences against the first run, the unpruned model.

    Accuracy is in points of 100 with standard errors clustered by video. Tokens and seconds are means per question
    from the run's own costs; seconds leave out its warm-up.
    """
    baseline, rows = runs[0], []
    kinds = sorted({answer.kind for answer in baseline.answers} - {""})
    for run in runs:
        kept = share = seconds = MISSING
        if cost := mean_cost(run.costs):
            kept, share = f"{cost.tokens_kept:.0f}", f"{cost.keep_ratio:.1%}"
            seconds = MISSING if cost.seconds is None else f"{cost.seconds:.2f}"
        against = MISSING if run is baseline else str(difference(run, baseline))
        by_kind = [told(accuracy(run.of_kind(kind)).mean, ".0f") for kind in kinds]
        rows.append([run.title, kept, share, str(accuracy(run)), against, seconds, *by_kind])
    header = ["method", "vision tokens kept", "of all", "accuracy", "against all tokens", "seconds", *kinds]
    return markdown(header, rows)


def problems(runs: Sequence[Run]) -> list[str]:
    """What a reader of `summary` must know: questions that failed, and answers without cost."""
    notes = []
    for run in runs:
        failed = sum(answer.error is not None for answer in run.answers)
        notes += lacks(run.title, len(run.answers), failed, len(run.answers) - len(run.costs) - failed)
    return notes
