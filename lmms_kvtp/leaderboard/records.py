"""A board for programs: CSV and JSON."""

import csv
import io
import json
import math
from typing import Any

from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.cells import Cell
from lmms_kvtp.leaderboard.costs import CostSummary
from lmms_kvtp.leaderboard.stats import Estimate

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
