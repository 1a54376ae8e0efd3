"""Results that are kept in the repository: one JSON file for each method, ratio and task."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.runs import CostSummary
from lmms_kvtp.leaderboard.stats import Estimate
from lmms_kvtp.leaderboard.task_score import Cell

COSTS = (
    "tokens_before",
    "tokens_kept",
    "tokens_structural",
    "prompt_tokens",
    "flops",
    "seconds",
    "swept",
    "peak_bytes",
)


def to_csv(board: Board) -> str:
    """One line for each method and task, numbers in full; cells that a spreadsheet would run are quoted."""
    buffer = io.StringIO()
    flat = [_flat(row, found) for row in board.rows for found in row.cells.values()]
    writer = csv.DictWriter(buffer, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _inert(value) for name, value in line.items()} for line in flat])
    return buffer.getvalue()


def to_json(board: Board) -> str:
    """Everything, for programs."""
    rows = [{**row_json(row, found)} for row in board.rows for found in row.cells.values()]
    left = [{"what": item.what, "why": item.why} for item in board.left]
    return json.dumps({"tasks": board.tasks, "rows": rows, "left_out": left, "notes": board.notes}, indent=1) + "\n"


def row_json(row: Row, found: Cell) -> dict[str, Any]:
    """One method on one task, as leaderboard/schema.json describes it."""
    record = row.provenance
    return {
        "method": row.name,
        "task": found.task,
        "task_version": record.task_versions.get(found.task, ""),
        "model": record.model,
        "toy": record.toy,
        "settings": record.method,
        "frames": record.frames,
        "keep_ratio": record.keep_ratio,
        "questions": found.accuracy.count,
        "accuracy": _estimate(found.accuracy),
        "difference": _estimate(found.difference),
        "relative": _estimate(found.relative),
        "kinds": {kind: _estimate(value) for kind, value in found.kinds.items()},
        "sparsities": {name: _estimate(value) for name, value in found.sparsities.items()},
        "cost": _cost(found.cost),
        "failed": found.failed,
        "without_cost": found.costless,
        "gates": row.gates,
        "command": " && ".join(row.commands),
        "commit": record.commit,
        "dirty": record.dirty,
        "versions": record.versions,
    }


def _cost(cost: CostSummary | None) -> dict[str, Any] | None:
    return None if cost is None else {**vars(cost), "keep_ratio": cost.keep_ratio}


def _estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None or math.isnan(estimate.mean):
        return None
    return {"mean": estimate.mean, "stderr": None if math.isnan(estimate.stderr) else estimate.stderr}


def _flat(row: Row, found: Cell) -> dict[str, Any]:
    whole = row_json(row, found)
    cost, result = whole["cost"] or {}, {}
    for name in ("method", "task", "model", "keep_ratio", "questions"):
        result[name] = whole[name]
    for name in ("accuracy", "difference", "relative"):
        pair = whole[name] or {}
        result |= {name: pair.get("mean"), f"{name}_stderr": pair.get("stderr")}
    for name in COSTS:
        result[name] = cost.get(name)
    result["keep_ratio_measured"] = cost.get("keep_ratio")
    return result | {name: whole[name] for name in ("failed", "without_cost", "gates", "commit", "command", "toy")}


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


SIGMAS = 2.0
"""Standard errors of the difference by which a row must fall to count as worse."""


def write_results(board: Board, folder: Path) -> list[Path]:
    """Write each row and task into its own file, over an older one of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in board.rows:
        for found in row.cells.values():
            paths.append(folder / file_name(row, found))
            paths[-1].write_text(json.dumps(row_json(row, found), indent=1) + "\n", encoding="utf-8")
    return paths


def file_name(row: Row, found: Cell) -> str:
    """Letters, digits and underscores of task and method, and the ratio: `skvqa_synth__kvtp_prumerge__0.2.json`."""
    ratio = row.provenance.keep_ratio
    return f"{_plain(found.task)}__{_plain(row.name)}__{'none' if ratio is None else f'{ratio:g}'}.json"


def regressions(board: Board, folder: Path) -> list[str]:
    """Rows that are worse than what `folder` holds of them, each in one line.

    The same questions were answered twice, so the standard error of each is an upper bound for noise that is paired.

    Raises:
        ValueError: a stored file is damaged; the message names it.
    """
    worse = []
    for row in board.rows:
        for found in row.cells.values():
            path = folder / file_name(row, found)
            if not path.is_file():
                continue
            stored = _stored(path)
            before, limit = stored["accuracy"]["mean"], SIGMAS * (stored["accuracy"]["stderr"] or 0.0)
            if found.accuracy.count == stored["questions"] and found.accuracy.mean < before - limit:
                worse.append(
                    f"{row.name}, {found.task}: {found.accuracy.mean:.1f} % now, {before:.1f} % in {path.name}"
                )
    return worse


def _stored(path: Path) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        float(stored["accuracy"]["mean"])
        int(stored["questions"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no stored result: {error!r}") from error
    return stored


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:80] or "unnamed"
