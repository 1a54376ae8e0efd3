"""The questions of a JSONL file: video, question, and an answer where there is one."""

import json
from dataclasses import dataclass
from pathlib import Path

SHOWN = 5


@dataclass(frozen=True)
class Asked:
    """One line of the file."""

    line: int
    video: Path
    question: str
    answer: str | None


def read(path: Path) -> list[Asked]:
    """Read the file and look for every video before any model loads.

    Args:
        path: one JSON object in each line, with `video` (a path, from the file's folder if relative), `question` (all
            of the text that the model gets) and, where known, `answer`. Empty lines are skipped.

    Raises:
        ValueError: a line that is none, or no line at all; the message names it.
        FileNotFoundError: videos that are missing; the message lists some.
    """
    asked = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            asked.append(_asked(path, number, line))
    if not asked:
        raise ValueError(f"{path} holds no question; give a JSON object with video and question in each line")
    missing = sorted({str(one.video) for one in asked if not one.video.is_file()})
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise FileNotFoundError(f"{path} names videos that are not there: {', '.join(missing[:SHOWN])}{more}")
    return asked


def _asked(path: Path, number: int, line: str) -> Asked:
    try:
        row = json.loads(line)
        video, question = row["video"], row["question"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}:{number} is no object with video and question: {error!r}") from error
    if not (isinstance(video, str) and isinstance(question, str) and question.strip()):
        raise ValueError(f"{path}:{number}: video and question must be texts, and the question not empty")
    answer = row.get("answer")
    return Asked(number, path.parent / video, question, None if answer is None else str(answer))
