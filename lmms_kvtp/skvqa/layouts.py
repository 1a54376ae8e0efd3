"""The seven data sets as the harness and their own pages distribute them: annotation files and a folder of videos."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lmms_kvtp.files import from_json, text_lines
from lmms_kvtp.rendering import first_few

Row = Mapping[str, Any]
SUFFIXES = (".parquet", ".csv", ".json", ".jsonl")
SHOWN = 20
"""Missing videos that have a line of their own in a message."""


class LayoutError(ValueError):
    """Annotations or videos are missing or cannot be read; the message has file and row, or the expected layout."""


@dataclass(frozen=True)
class SourceQuestion:
    """A question as its data set states it."""

    question_id: str
    video_id: str
    video: str
    """Name of the video's file, with or without folder and extension."""
    question: str
    options: tuple[str, ...] = ()


def read_questions(dataset: str, annotations: Path) -> list[SourceQuestion]:
    """Read all questions of a data set.

    LayoutError where a file cannot be read, a field is missing or empty, a question occurs twice, or there is none.
    """
    read, found = LAYOUTS[dataset], []
    for file, number, row in read_rows(annotations):
        try:
            part = file.parent.name if file.suffix == ".parquet" else file.stem
            found += read(row, part, number)
        except (KeyError, TypeError, ValueError) as error:
            wrong = {KeyError: f"lacks the field {error}", TypeError: f"is not as expected ({error})"}
            told = wrong.get(type(error), str(error))
            raise LayoutError(f"{file}, row {number} {told}; {expected_layout(dataset)}") from error
    twice = [name for name, count in Counter(question.question_id for question in found).items() if count > 1]
    if twice:
        raise LayoutError(
            f"{annotations} has {len(twice)} question ids more than once, such as {', '.join(twice[:5])}; give each "
            "split or release on its own"
        )
    if not found:
        raise LayoutError(f"{annotations} has no question; {expected_layout(dataset)}")
    return found


def expected_layout(dataset: str) -> str:
    """Describe the files that a data set is read from, for messages and help."""
    layout = _facts()["layouts"][dataset]
    return f"{dataset} is read from {layout['annotations']}; its videos are {layout['videos']}"


@cache
def _facts() -> dict[str, Any]:
    """What users must have of each data set, and where the hub's release keeps the videos of MVBench's sub-tasks.

    Those of episodic_reasoning may be folders of frames.
    """
    found: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return found


def missing_message(dataset: str, root: Path, missing: list[str], total: int) -> str:
    """List the videos that are not there, all of them, and say what is expected."""
    shown = first_few(missing, SHOWN, "\n  ") + (f": {', '.join(missing[SHOWN:])}" if len(missing) > SHOWN else "")
    return f"{len(missing)} of {total} videos are not below {root}:\n  {shown}\n{expected_layout(dataset)}"


EVALUATED: Mapping[str, Callable[[Row], tuple[str, str]]] = {
    "videomme": lambda row: (str(row["question_id"]), str(row["videoID"])),
    "egoschema": lambda row: (str(row["video_idx"]), str(row["video_idx"])),  # one question on each video
    "nextqa": lambda row: (f"{row['video']}-{row['qid']}", str(row["video"])),  # numbered within each video
}
"""Question id and video of an annotation row, for the data sets that have a task."""


def _one(name: str, video: str, row: Row, options: Any = (), path: str = "") -> SourceQuestion:
    texts, question = [] if options == () else options, row["question"]
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"has options that are no texts: {options!r}")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"has a question that is no text: {question!r}")
    return SourceQuestion(name, video, path or video, question.strip(), tuple(text.strip() for text in texts))


def _evaluated(dataset: str, options: Callable[[Row], Any]) -> Callable[[Row, str, int], list[SourceQuestion]]:
    return lambda row, part, number: [_one(*EVALUATED[dataset](row), row, options(row))]


def _activitynetqa(row: Row, part: str, number: int) -> list[SourceQuestion]:
    if set(row) == {"answer", "type", "question_id"}:  # *_a.json: answers, apart from their questions
        return []
    video = str(row["video_name"])
    return [_one(str(row["question_id"]), video, row, path=f"v_{video}")]


def _perceptiontest(row: Row, part: str, number: int) -> list[SourceQuestion]:
    if "mc_question" in row:  # the data set's own page: one object for each video
        video = str(row["_key"])
        return [_one(f"{video}-{one['id']}", video, one, one["options"]) for one in row["mc_question"]]
    video = str(row["video_name"])
    return [_one(f"{video}-{row['question_id']}", video, row, row["options"])]


def _videochatgpt(row: Row, part: str, number: int) -> list[SourceQuestion]:
    video = str(row["video_name"])
    names = [name for name in ("question", "question_1", "question_2", "Q", "Q1", "Q2") if row.get(name)]
    if not names:
        raise KeyError("question")
    return [_one(f"{part}-{number}-{name[-1]}", video, {"question": row[name]}) for name in names]


def _mvbench(row: Row, part: str, number: int) -> list[SourceQuestion]:
    folder = _facts()["mvbench_folders"].get(part, "")
    return [_one(f"{part}-{number}", f"{folder}/{row['video']}", row, row["candidates"])]


LAYOUTS: Mapping[str, Callable[[Row, str, int], list[SourceQuestion]]] = {
    "videomme": _evaluated("videomme", lambda row: row["options"]),
    "egoschema": _evaluated("egoschema", lambda row: row["option"]),
    "nextqa": _evaluated("nextqa", lambda row: [row[f"a{index}"] for index in range(5)]),
    "activitynetqa": _activitynetqa,
    "perceptiontest": _perceptiontest,
    "videochatgpt": _videochatgpt,
    "mvbench": _mvbench,
}
"""How the questions of an annotation row are read: from the row, the part of the data set that its file is, and its
number in the file."""


def read_rows(path: Path) -> Iterator[tuple[Path, int, Row]]:
    """Yield file, number and content of each annotation row, files in order of their names; LayoutError for a lost one.

    A JSON file holds a list of objects, or one object whose values are objects: their names become the field "_key".
    """
    if not path.exists():
        raise LayoutError(f"no annotations at {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not files:
        raise LayoutError(f"no annotations in {path}: wanted files ending in {', '.join(SUFFIXES)}")
    for file in files:
        try:
            for number, row in enumerate(_read(file), start=1):
                if not isinstance(row, Mapping):
                    raise LayoutError(f"{file}, row {number} is a {type(row).__name__}, not an object")
                yield file, number, row
        except (ValueError, OSError) as error:
            raise error if isinstance(error, LayoutError) else LayoutError(f"cannot read {file}: {error}") from error


def _read(file: Path) -> Iterator[Any]:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    elif file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as handle:
            yield from csv.DictReader(handle)
    elif file.suffix == ".jsonl":
        yield from (from_json(line) for _, line in text_lines(file))
    else:
        found = from_json(file.read_bytes())
        if isinstance(found, dict):
            found = [{"_key": key, **value} if isinstance(value, dict) else value for key, value in found.items()]
        if not isinstance(found, list):
            raise LayoutError(f"{file} holds a {type(found).__name__}, not a list of questions")
        yield from found
