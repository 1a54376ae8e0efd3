"""Results that are kept in the repository: one JSON file for each method, ratio and task."""

import json
import re
from pathlib import Path
from typing import Any

from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.cells import Cell
from lmms_kvtp.leaderboard.outputs import row_json

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
