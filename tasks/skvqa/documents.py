"""The questions that a task asks, with what the index knows of them, and where their videos are."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from loguru import logger

from lmms_kvtp.skvqa import task_index
from lmms_kvtp.skvqa.entry import Entry
from lmms_kvtp.skvqa.layouts import EVALUATED, missing_message
from lmms_kvtp.skvqa.stats import apply_criteria

Doc = Mapping[str, Any]
SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm")
SOURCES = {
    "videomme": ("videomme/data", "videoID"),
    "egoschema": ("egoschema/videos", "video_idx"),
    "nextqa": ("nextqa/NExTVideo", "video"),
}
"""Where the harness keeps a data set's videos, and which column names the file."""


@dataclass(frozen=True)
class Documents:
    """The documents of a task, for `process_docs`: those that meet the criteria, or all, with what the index knows."""

    dataset: str
    full: bool = False

    def check(self) -> None:
        """Look for the index; the plug-in does so before the harness downloads a data set, which is in vain without.

        Raises as `locate_index`, whose messages name the ways on.
        """
        if not self.full:
            task_index.locate_index(self.dataset)

    def __call__(self, rows: Any) -> Any:
        """Choose the documents, and add spans and sparsity where known; raises as `task_entries`, too.

        LookupError where the index has none of the questions, FileNotFoundError where videos are missing, listed.
        """
        try:
            return _documents(self.dataset, self.full, rows)
        except (LookupError, ValueError, OSError) as error:
            _say(str(error))
            raise


_say = cache(logger.error)
"""Once: the harness tries five times, and then reports a RetryError without the reason."""


def _documents(dataset: str, full: bool, rows: Any) -> Any:
    try:
        known = task_index.task_entries(dataset)
    except task_index.NoIndexError:
        if not full:
            raise
        known = {}
    names = [EVALUATED[dataset](row)[0] for row in rows]
    wanted = list(range(len(names))) if full else _chosen(dataset, known, names)
    _check_videos(dataset, [rows[number] for number in wanted])
    found = [known.get(names[number]) for number in wanted]
    task = f"skvqa_{dataset}_full" if full else f"skvqa_{dataset}"
    limits = task_index.task_criteria()  # runs that differ in the choice of questions belong in different tables
    rule = "all questions" if full else f"beta {limits.beta:g}, at least {limits.min_frames} frames"
    selection = f"{rule}, index {task_index.index_digest(dataset)}" if known else f"{rule}, no index"
    columns = {
        "kvtp_id": [f"{task}/{names[number]}" for number in wanted],
        "spans": [None if entry is None or entry.spans is None else [list(s) for s in entry.spans] for entry in found],
        "refined": [None if entry is None else entry.refined for entry in found],
        "sparsity": [None if entry is None else entry.sparsity for entry in found],
        "index_encoder": [None if entry is None or entry.encoder is None else list(entry.encoder) for entry in found],
        "selection": [selection] * len(found),
    }
    chosen = rows.select(wanted)
    for name, column in columns.items():
        chosen = chosen.add_column(name, column)
    return chosen


def _chosen(dataset: str, known: Mapping[str, Entry], names: Sequence[str]) -> list[int]:
    scored = [known[name] for name in names if name in known]
    if not scored:
        raise LookupError(
            f"the index {task_index.locate_index(dataset)} has none of the {len(names)} questions of {dataset}, such "
            f"as {names[0]!r}; it has {', '.join(map(repr, list(known)[:3]))}: another release of the data set?"
        )
    limits = task_index.task_criteria()
    filtered = apply_criteria(scored, limits)
    logger.info(
        f"skvqa_{dataset}: {len(filtered.kept)} of {len(names)} questions (beta {limits.beta:g}, at least "
        f"{limits.min_frames} frames); {filtered.only_not_sparse} are only not sparse enough, "
        f"{filtered.only_too_short} only too short, {filtered.both} both, {len(names) - len(scored)} not in the index"
    )
    if not filtered.kept:
        raise LookupError(f"no question of {dataset} is left at beta {limits.beta:g}; see LMMS_KVTP_SKVQA_BETA")
    kept = {entry.question_id for entry in filtered.kept}
    return [number for number, name in enumerate(names) if name in kept]


def _check_videos(dataset: str, rows: Sequence[Doc]) -> None:
    """Find out before the first answer whether videos are missing; FileNotFoundError lists them."""
    names = list(dict.fromkeys(str(row[SOURCES[dataset][1]]) for row in rows))
    missing = [name for name in names if _find(dataset, name) is None]
    if missing and not task_index.ignore_missing():
        message = missing_message(dataset, _folder(dataset), missing, len(names))
        way_out = f"{task_index.MISSING_VARIABLE}=ignore goes on without them, with on_error=skip"
        raise FileNotFoundError(f"{message}\n{way_out}")


def video(dataset: str, doc: Doc) -> list[str]:
    """Give the path of a document's video, which need not exist."""
    name = str(doc[SOURCES[dataset][1]])
    return [str(_find(dataset, name) or _folder(dataset) / f"{name}.mp4")]


def _find(dataset: str, name: str) -> Path | None:
    paths = (_folder(dataset) / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.exists()), None)


def _folder(dataset: str) -> Path:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home).expanduser() / SOURCES[dataset][0]


videomme, videomme_full = Documents("videomme"), Documents("videomme", full=True)
egoschema, egoschema_full = Documents("egoschema"), Documents("egoschema", full=True)
nextqa, nextqa_full = Documents("nextqa"), Documents("nextqa", full=True)

videomme_video: Callable[[Doc], list[str]] = partial(video, "videomme")
egoschema_video: Callable[[Doc], list[str]] = partial(video, "egoschema")
nextqa_video: Callable[[Doc], list[str]] = partial(video, "nextqa")
