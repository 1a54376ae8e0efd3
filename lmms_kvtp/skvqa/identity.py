"""How a row of a data set names its question and its video: the same for building an index and for reading it."""

from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]


def videomme(row: Row) -> tuple[str, str]:
    """Question and video of a row of Video-MME."""
    return str(row["question_id"]), str(row["videoID"])


def egoschema(row: Row) -> tuple[str, str]:
    """Of EgoSchema, which asks one question on each video."""
    return str(row["video_idx"]), str(row["video_idx"])


def nextqa(row: Row) -> tuple[str, str]:
    """Of NExT-QA, which numbers the questions of each video."""
    return f"{row['video']}-{row['qid']}", str(row["video"])


EVALUATED: Mapping[str, Callable[[Row], tuple[str, str]]] = {
    "videomme": videomme,
    "egoschema": egoschema,
    "nextqa": nextqa,
}
"""Data sets with a task."""
