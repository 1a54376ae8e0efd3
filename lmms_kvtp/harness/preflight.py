"""What tasks need, before any weights load: their questions, and the files that these are about."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import lmms_eval.models  # noqa: F401  (loads all plug-ins, which add their tasks, ours among them)
from lmms_eval.tasks import TaskManager, get_task_dict
from tenacity import RetryError

from lmms_kvtp.run.asks import IN_MEMORY, name_visuals, read_visuals


@dataclass(frozen=True)
class Media:
    """The visuals that one task asks about, as far as they are there."""

    task: str
    questions: int
    present: tuple[str, ...]
    """Files that are there, and names of images in memory."""
    missing: tuple[str, ...]
    """Files that are not there, or what the task says in place of a name."""
    output_tokens: int | None
    """Most tokens of an answer; None where the task sets no limit."""


def media_of(tasks: str, limit: int | None = None) -> list[Media]:
    """Look up the visuals of every question.

    Args:
        tasks: comma-separated, as of lmms-eval; groups too.
        limit: only the first so many questions of each.

    Raises:
        LookupError: the harness knows no such task, and the message has near names; or none is named; or a data set
            is not to be had.
    """
    names, manager = check_tasks(tasks)
    try:
        found = get_task_dict(names, manager)
    except RetryError as error:
        reason = str(error.last_attempt.exception()).partition("\n")[0].rstrip(".:")
        raise LookupError(
            f"the data of {tasks} is not to be had: {reason}. It is looked for below HF_HOME and on the hub: connect, "
            "log in (`hf auth login`), or copy it there"
        ) from error
    return [_media(name, task, limit) for name, task in _tasks(found)]


def check_tasks(tasks: str) -> tuple[list[str], TaskManager]:
    """Check that the harness knows tasks; returns their names and its task manager.

    Raises:
        LookupError: as `media_of`.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    manager = TaskManager(verbosity="ERROR")
    for name in names:
        if name not in manager.all_tasks:
            close = get_close_matches(name, manager.all_tasks)
            hint = f"did you mean {', '.join(close)}?" if close else "`lmms-eval tasks` lists them"
            raise LookupError(f"no task named {name!r}; {hint}")
    if not names:
        raise LookupError(f"tasks {tasks!r} name no task; `lmms-eval tasks` lists them")
    return names, manager


def _tasks(found: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Walk through the tasks of nested groups."""
    for name, task in found.items():
        if isinstance(task, Mapping):
            yield from _tasks(task)
        elif task is not None:
            yield str(name), task


def _media(name: str, task: Any, limit: int | None) -> Media:
    present: dict[str, None] = {}
    missing: dict[str, None] = {}
    questions = 0
    for doc in islice(task.eval_docs, limit):
        questions += 1
        try:
            visuals = name_visuals(read_visuals(task.doc_to_visual, doc))
        except FileNotFoundError as error:
            missing[str(error)] = None
            continue
        for path in visuals:
            there = bool(IN_MEMORY.match(path)) or Path(path).exists()
            (present if there else missing)[path] = None
    asked = (task.config.generation_kwargs or {}).get("max_new_tokens")
    return Media(name, questions, tuple(present), tuple(missing), None if asked is None else int(asked))
