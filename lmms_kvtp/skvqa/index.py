"""Index files: one JSON Lines file per data set, one question a line; reading, writing, comparing and merging them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmms_kvtp.files import text_lines, write_whole
from lmms_kvtp.questions import check_scale
from lmms_kvtp.rendering import first_few
from lmms_kvtp.skvqa.entry import DATASETS, Entry, EntryError, from_line, to_line
from lmms_kvtp.skvqa.stats import Criteria

SHOWN = 20
"""Bad lines that a message lists."""

Key = tuple[str, str]
"""Data set and question id."""


class IndexFileError(ValueError):
    """An index is damaged, or not the one wanted; the message has the file, its lines, and what is wrong with them."""


def index_files(path: Path) -> list[Path]:
    """The index files that a path names: itself, or `<data set>.jsonl` below it; FileNotFoundError for none."""
    if path.is_file():
        return [path]
    found = [path / f"{name}.jsonl" for name in DATASETS if (path / f"{name}.jsonl").is_file()]
    if not found:
        names = ", ".join(f"{name}.jsonl" for name in DATASETS)
        raise FileNotFoundError(f"no index at {path}: wanted a file, or a folder with some of {names}")
    return found


def read_entries(path: Path, dataset: str | None = None) -> list[Entry]:
    """Read a file; IndexFileError where a line is damaged, of another schema or data set, or repeats a question."""
    entries, wrong = sort_lines(path, dataset)
    if wrong:
        shown = first_few(wrong, SHOWN, "\n  ")
        raise IndexFileError(f"{path} has {len(wrong)} bad lines:\n  {shown}")
    if not entries:
        raise IndexFileError(f"{path} has no entry")
    return entries


def on_scale(entries: list[Entry], path: Path) -> list[Entry]:
    """Pass on a file's entries with scores of 0 to 5; ValueError where none is above 1: most likely that is the end."""
    check_scale((score for entry in entries for score in entry.clip_scores), path)
    return entries


def sort_lines(path: Path, dataset: str | None = None) -> tuple[list[Entry], list[str]]:
    """Read the entries of a file, and for each other line a sentence on what is wrong with it.

    `dataset` is the only one whose entries are wanted, None any. ValueError names a line that is not text.
    """
    entries, wrong = [], []
    seen: dict[Key, int] = {}
    for number, line in text_lines(path):
        try:
            entry = from_line(line)
        except EntryError as error:
            wrong.append(f"line {number} {error}")
            continue
        first = seen.setdefault(_key(entry), number)
        if first != number:
            wrong.append(f"line {number} has question {entry.question_id!r} again (first in line {first})")
        elif dataset is not None and entry.dataset != dataset:
            wrong.append(f"line {number} is of data set {entry.dataset}, wanted {dataset}")
        else:
            entries.append(entry)
    return entries, wrong


def write_entries(path: Path, entries: Iterable[Entry]) -> int:
    """Write a file, sorted by video and question, at once or not at all; returns the number of entries."""
    content = to_bytes(entries)
    write_whole(path, content)
    return content.count(b"\n")


def to_bytes(entries: Iterable[Entry]) -> bytes:
    """Make the content of a file, sorted by video and question."""
    ordered = sorted(entries, key=lambda entry: (entry.dataset, entry.video_id, entry.question_id))
    return "".join(to_line(entry) + "\n" for entry in ordered).encode()


@dataclass(frozen=True)
class Difference:
    """How index b differs from index a."""

    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    changed: tuple[Key, ...]
    """Questions in both with other scores, frames or refined question."""
    kept_only_a: tuple[Key, ...]
    """Questions in both of which only a's scores meet the criteria."""
    kept_only_b: tuple[Key, ...]
    mean_score_change: float
    """Mean absolute difference of clip scores over questions with the same clips."""


def compare_indexes(a: Sequence[Entry], b: Sequence[Entry], criteria: Criteria) -> Difference:
    """Compare two indexes question by question."""
    ours, theirs = {_key(entry): entry for entry in a}, {_key(entry): entry for entry in b}
    both = [key for key in ours if key in theirs]
    kept_a = {key for key in both if criteria.keep(ours[key])}
    kept_b = {key for key in both if criteria.keep(theirs[key])}
    changes = [
        abs(x - y)
        for key in both
        if len(ours[key].clip_scores) == len(theirs[key].clip_scores)
        for x, y in zip(ours[key].clip_scores, theirs[key].clip_scores, strict=True)
    ]
    return Difference(
        only_a=tuple(key for key in ours if key not in theirs),
        only_b=tuple(key for key in theirs if key not in ours),
        changed=tuple(key for key in both if _content(ours[key]) != _content(theirs[key])),
        kept_only_a=tuple(key for key in both if key in kept_a - kept_b),
        kept_only_b=tuple(key for key in both if key in kept_b - kept_a),
        mean_score_change=sum(changes) / len(changes) if changes else 0.0,
    )


def merge_indexes(parts: Sequence[Sequence[Entry]]) -> list[Entry]:
    """Put all entries into one list; a question may be in several parts if they agree on it.

    ValueError where two parts have the same question with other content, or were made by other models.
    """
    merged: dict[Key, Entry] = {}
    conflicts = []
    for entry in (entry for part in parts for entry in part):
        if merged.setdefault(_key(entry), entry) != entry:
            conflicts.append("/".join(_key(entry)))
    if conflicts:
        shown = ", ".join(conflicts[:5])
        raise ValueError(f"{len(conflicts)} questions differ between the indexes, such as {shown}; see skvqa diff")
    origins: dict[str, set[str]] = {}
    for entry in merged.values():
        models = ", ".join(f"{part} {name}" for part, name in sorted(entry.models.items()))
        made_by = f"{models}, prompts {entry.prompts or '-'}, temperature {entry.temperature:g}"
        origins.setdefault(entry.dataset, set()).add(made_by)
    for dataset, made in origins.items():
        if len(made) > 1:
            raise ValueError(
                f"the entries of {dataset} were made in {len(made)} ways: {'; '.join(sorted(made))}; scores of "
                "different models or settings are not comparable, so an index has one of each"
            )
    return list(merged.values())


def _key(entry: Entry) -> Key:
    return entry.dataset, entry.question_id


def _content(entry: Entry) -> tuple[object, ...]:
    return entry.num_frames, entry.clip_size, entry.clip_scores, entry.refined
