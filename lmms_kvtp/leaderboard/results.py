"""A board as numbers for programs: CSV, JSON, and the JSON files that the repository keeps of earlier results."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from lmms_kvtp.files import content_key, from_json, write_json
from lmms_kvtp.leaderboard import frame
from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.runs import DAMAGE
from lmms_kvtp.leaderboard.stats import Estimate
from lmms_kvtp.leaderboard.task_score import TaskScore
from lmms_kvtp.rendering import as_csv

SIGMAS = 2.0
"""Standard errors of the stored accuracy by which a row must fall to count as worse."""
MOST_SAMPLED = 24
"""Rows of a task of which single samples are shown at most; each is read once more for that."""
COSTS = "tokens_before", "tokens_kept", "tokens_structural", "prompt_tokens", "flops", "seconds", "swept", "peak_bytes"


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
    lines = [_csv_line(row, found) for row in board.rows for found in row.scores.values()]
    safe = [{key: as_csv(cell) if isinstance(cell, str) else cell for key, cell in line.items()} for line in lines]
    return str(pandas.DataFrame(safe, dtype=object).to_csv(index=False, lineterminator="\n"))


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
    """Write each row and task into its own file, over an older one of that name.

    ValueError where a row's code had changes that no commit holds.
    """
    changed = [row.title for row in board.rows if row.provenance.dirty]
    if changed:
        raise ValueError(f"{changed[0]} is of uncommitted changes, so nobody could repeat it; commit, run again, store")
    for row in board.rows:
        for found in row.scores.values():
            write_json(folder / file_name(row, found), row_json(row, found))


def file_name(row: Row, found: TaskScore) -> str:
    """Letters, digits and underscores of task and method, and the ratio: `skvqa_synth__kvtp_prumerge__0.2.json`."""
    ratio = row.provenance.keep_ratio
    return f"{plain(found.task)}__{plain(row.name)}__{'none' if ratio is None else f'{ratio:g}'}.json"


class Band(NamedTuple):
    """What a stored result allows a row to be."""

    text: str
    fall: str
    """What to say of a row that is below it; empty for others."""


def bands(board: Board, folder: Path) -> dict[tuple[str, str], Band]:
    """Bands of two standard errors to either side of what `folder` holds, by title of a row and task.

    Both times the same questions were answered, so the stored standard error is an upper bound for the paired noise.
    Rows that are not stored, or on another number of questions, are left out. ValueError names a file that is damaged,
    or of another model.
    """
    found = {}
    for row, score in [(line, score) for line in board.rows for score in line.scores.values()]:
        path = folder / file_name(row, score)
        if not path.is_file():
            continue
        try:
            stored = from_json(path.read_bytes())
            before, questions = float(stored["accuracy"]["mean"]), int(stored["questions"])
            limit, model = SIGMAS * float(stored["accuracy"]["stderr"] or 0.0), str(stored["model"])
        except DAMAGE as error:
            raise ValueError(f"{path} is no stored result: {error!r}") from error
        if model != row.provenance.model:
            renew = "renew it with `lmms-kvtp leaderboard RUNS --out OUT --results` and its folder"
            raise ValueError(f"{path} is of the model {model}, and the row of {row.provenance.model}; {renew}")
        if score.accuracy.count == questions:
            now, text = score.accuracy.mean, f"{max(0.0, before - limit):.1f} to {min(100.0, before + limit):.1f}"
            fall = f"{row.name}, {score.task}: {now:.1f} % now, {text} in {path.name}"
            found[row.title, score.task] = Band(text, fall if now < before - limit else "")
    return found


def sample_script(board: Board) -> str:
    """All answers as a script that hands them to `samples`; none of tasks with more than MOST_SAMPLED rows."""
    files = []
    for task in board.tasks:
        rows = [(row.title, file) for row in board.rows if task in row.scores and (file := row.scores[task].file)]
        files += [(path, title, task, told) for title, (path, _, _, told) in rows if len(rows) <= MOST_SAMPLED]
    if not files:
        return ""
    found = frame(files)
    found.loc[found.duplicated(["task", "question"]), ["prompt", "right", "video", "kind"]] = ""
    wanted = ["task", "method", "question", "video", "kind", "prompt", "right", "given", "error", "score"]
    costs = [name for name in ("tokens_before", "kept_by_frame") if name in found]
    return f"samples({found[wanted + costs].to_json(orient='split', index=False)});\n".replace("<", "\\u003c")


def plain(text: str) -> str:
    """A name for a file: small letters, digits and underscores; where that is long or nothing, with a digest."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower().replace("=-", " minus ")).strip("_")
    return name if 0 < len(name) <= 80 else f"{name[:71]}_{content_key(text)[:8]}"
