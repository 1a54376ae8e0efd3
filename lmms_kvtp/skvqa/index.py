"""Index files: one JSON Lines file per data set, one question a line."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from lmms_kvtp.files import write_whole
from lmms_kvtp.skvqa.entry import DATASETS, Entry, EntryError, dumps, loads

SHOWN = 20
"""Problems that a message lists."""


class IndexFileError(ValueError):
    """An index is damaged, or not the one wanted; the message has the file, its lines, and what is wrong with them."""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not empty.

    Raises:
        IndexFileError: the file is not text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise IndexFileError(f"{path} is not an index: it is no UTF-8 text ({error})") from error


def problems(path: Path, dataset: str | None = None) -> Iterator[str | Entry]:
    """Each entry of a file, or a sentence on what is wrong with its line.

    Args:
        path: the file.
        dataset: the only one whose entries are wanted; None for any.
    """
    seen: dict[tuple[str, str], int] = {}
    for number, line in lines(path):
        try:
            entry = loads(line)
        except EntryError as error:
            yield f"line {number} {error}"
            continue
        key = (entry.dataset, entry.question_id)
        if key in seen:
            yield f"line {number} has question {entry.question_id!r} again (first in line {seen[key]})"
        elif dataset is not None and entry.dataset != dataset:
            yield f"line {number} is of data set {entry.dataset}, wanted {dataset}"
        else:
            yield entry
        seen.setdefault(key, number)


def read(path: Path, dataset: str | None = None) -> list[Entry]:
    """All entries of a file.

    Raises:
        IndexFileError: a line is damaged, of another schema or data set, or a question occurs twice.
        FileNotFoundError: there is no such file.
    """
    entries, wrong = [], []
    for found in problems(path, dataset):
        if isinstance(found, Entry):
            entries.append(found)
        else:
            wrong.append(found)
    if wrong:
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        shown = "".join(f"\n  {problem}" for problem in wrong[:SHOWN])
        raise IndexFileError(f"{path} has {len(wrong)} bad lines:{shown}{more}")
    if not entries:
        raise IndexFileError(f"{path} has no entry")
    return entries


def write(path: Path, entries: Iterable[Entry]) -> int:
    """Write a file, sorted by video and question, at once or not at all; returns the number of entries."""
    content = dumps_all(entries)
    write_whole(path, content)
    return content.count(b"\n")


def dumps_all(entries: Iterable[Entry]) -> bytes:
    """The content of a file, sorted by video and question."""
    ordered = sorted(entries, key=lambda entry: (entry.dataset, entry.video_id, entry.question_id))
    return "".join(dumps(entry) + "\n" for entry in ordered).encode()


def files(path: Path) -> list[Path]:
    """The index files that a path names: itself, or `<data set>.jsonl` in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_file():
        return [path]
    found = [path / f"{name}.jsonl" for name in DATASETS if (path / f"{name}.jsonl").is_file()]
    if not found:
        names = ", ".join(f"{name}.jsonl" for name in DATASETS)
        raise FileNotFoundError(f"no index at {path}: wanted a file, or a folder with some of {names}")
    return found
