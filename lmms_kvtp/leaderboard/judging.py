"""Verdicts in words on the rows of a board, each against the unpruned model."""

from dataclasses import replace

from lmms_kvtp.leaderboard.board import Board, Row
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.leaderboard.verdicts import Comparison, compare

MOST = 40
"""Rows of one task that are judged: each costs a bootstrap, and after correction for more of them little is left."""


def judge(board: Board) -> dict[str, list[Comparison]]:
    """Compare the rows of each task with its unpruned model, corrected for their number; by task.

    Tasks without an unpruned model, or with more than MOST rows, are left out.
    """
    judged = {}
    for task in board.tasks:
        bases = [row for row in board.rows if row.provenance.unpruned and task in row.cells]
        if not bases:
            continue
        base, run = bases[0], _run(bases[0], task)
        others = [row for row in board.rows if task in row.cells and row.cells[task].difference is not None]
        same = [row for row in others if _model(row) == _model(base)]
        if 0 < len(same) <= MOST and run is not None:
            runs = [other for row in same if (other := _run(row, task)) is not None]
            judged[task] = compare(runs, run)
    return judged


def _run(row: Row, task: str) -> Run | None:
    run = row.cells[task].run
    return None if run is None else replace(run, name=row.title)


def _model(row: Row) -> tuple[str, str]:
    return row.provenance.model, str(row.provenance.frames)
