"""A board as numbers for programs: CSV, JSON, and the JSON files that the repository keeps of earlier results."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from lmms_kvtp.files import write_json
from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.stats import Estimate
from lmms_kvtp.leaderboard.task_score import TaskScore
from lmms_kvtp.rendering import as_csv

SIGMAS = 2.0
"""Standard errors of the stored accuracy by which a row must fall to count as worse."""
COSTS = (
    *("tokens_before", "tokens_kept", "tokens_structural", "prompt_tokens"),
    *("flops", "seconds", "swept", "peak_bytes"),
)


def to_json(board: Board) -> str:
    """Everything that is known of the board."""
    rows = [row_json(row, found) for row in board.rows for found in row.scores.values()]
    left = [{"what": item.what, "why": item.why} for item in board.left]
    return json.dumps({"tasks": board.tasks, "rows": rows, "left_out": left, "notes": board.notes}, indent=1) + "\n"


def row_json(row: Row, found: TaskScore) -> dict[str, Any]:
    """One method on one task, as leaderboard/schema.json describes it."""
    origin = row.provenance
    return {
        "method": row.name,
        "task": found.task,
        "task_version": origin.task_versions.get(found.task, ""),
        "model": origin.model,
        "toy": origin.toy,
        "settings": origin.method,
        "frames": origin.frames,
        "keep_ratio": origin.keep_ratio,
        "questions": found.accuracy.count,
        "accuracy": _estimate(found.accuracy),
        "difference": _estimate(found.difference),
        "relative": _estimate(found.relative),
        "kinds": {kind: _estimate(value) for kind, value in found.kinds.items()},
        "sparsities": {name: _estimate(value) for name, value in found.sparsities.items()},
        "cost": found.cost and {**vars(found.cost), "keep_ratio": found.cost.keep_ratio},
        "failed": found.failed,
        "without_cost": found.costless,
        "note": row.notes.get(found.task, ""),
        "gates": row.gates,
        "command": " && ".join(row.commands),
        "commit": origin.commit,
        "dirty": origin.dirty,
        "versions": origin.versions,
    }


def _estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None or math.isnan(estimate.mean):
        return None
    return {"mean": estimate.mean, "stderr": None if math.isnan(estimate.stderr) else estimate.stderr}


def to_csv(board: Board) -> str:
    """One line for each method and task, numbers in full; cells that a spreadsheet would run are quoted."""
    buffer = io.StringIO()
    lines = [_csv_line(row, found) for row in board.rows for found in row.scores.values()]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: as_csv(value) if isinstance(value, str) else value for name, value in line.items()})
    return buffer.getvalue()


def _csv_line(row: Row, found: TaskScore) -> dict[str, Any]:
    whole = row_json(row, found)
    cost = whole["cost"] or {}
    line = {name: whole[name] for name in ("method", "task", "model", "keep_ratio", "questions")}
    for name in ("accuracy", "difference", "relative"):
        pair = whole[name] or {}
        line |= {name: pair.get("mean"), f"{name}_stderr": pair.get("stderr")}
    line |= {name: cost.get(name) for name in COSTS} | {"keep_ratio_measured": cost.get("keep_ratio")}
    return line | {name: whole[name] for name in ("failed", "without_cost", "gates", "commit", "command", "toy")}


def write_results(board: Board, folder: Path) -> None:
    """Write each row and task into its own file, over an older one of that name."""
    for row in board.rows:
        for found in row.scores.values():
            write_json(folder / file_name(row, found), row_json(row, found))


def file_name(row: Row, found: TaskScore) -> str:
    """Letters, digits and underscores of task and method, and the ratio: `skvqa_synth__kvtp_prumerge__0.2.json`."""
    ratio = row.provenance.keep_ratio
    return f"{_plain(found.task)}__{_plain(row.name)}__{'none' if ratio is None else f'{ratio:g}'}.json"


def regressions(board: Board, folder: Path) -> list[str]:
    """Rows that are worse than what `folder` holds of them, each in one line; ValueError names a damaged file.

    Both times the same questions were answered, so the stored standard error is an upper bound for the paired noise.
    """
    worse = []
    for row in board.rows:
        for found in row.scores.values():
            path = folder / file_name(row, found)
            if not path.is_file():
                continue
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                before, questions = float(stored["accuracy"]["mean"]), int(stored["questions"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is no stored result: {error!r}") from error
            limit = SIGMAS * (stored["accuracy"]["stderr"] or 0.0)
            if found.accuracy.count == questions and found.accuracy.mean < before - limit:
                now = f"{found.accuracy.mean:.1f} % now"
                worse.append(f"{row.name}, {found.task}: {now}, {before:.1f} % in {path.name}")
    return worse


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:80] or "unnamed"
