"""What tasks need, before any weights load: their questions, and the files that these are about."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import lmms_eval.models  # noqa: F401  (loads all plug-ins, which add their tasks, ours among them)
from huggingface_hub import constants
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks import TaskManager, get_task_dict
from lmms_eval.utils import load_yaml_config, resolve_cache_dir
from tenacity import RetryError, stop_after_attempt

from lmms_kvtp.run.asks import IN_MEMORY, name_visuals, read_visuals
from lmms_kvtp.skvqa.task_index import MISSING_VARIABLE

HUB = "the hub cannot be reached: only what lies below HF_HOME is found; connect, or set HF_ENDPOINT or a proxy"
DATA_WAY = "connect to the hub, log in (`hf auth login`), or copy it below HF_HOME"
INDEX_WAY = "`lmms-kvtp skvqa build` or `import` makes one, `install` puts it there (docs/skvqa.md)"


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


def media_of(tasks: str, limit: int | None = None, include_path: str | None = None) -> list[Media]:
    """Look up the visuals of every question.

    Args:
        tasks: comma-separated, as of lmms-eval; groups too.
        limit: only the first so many questions of each.
        include_path: folder with tasks of the user's own.

    Raises:
        LookupError: as `examine`, or a task cannot be run; the message has what `examine` found.
    """
    found, problems = examine(tasks, limit, include_path)
    if problems:
        raise LookupError("\n".join(problems))
    return found


def examine(tasks: str, limit: int | None = None, include_path: str | None = None) -> tuple[list[Media], list[str]]:
    """Look up the visuals of every question of the tasks that load, and say what keeps the others from it.

    Args:
        tasks: comma-separated, as of lmms-eval; each member of a group is examined.
        limit: only the first so many questions of each.
        include_path: folder with tasks of the user's own.

    Returns:
        Visuals by task, and the problems of the other tasks: one line for each, with the way on.

    Raises:
        LookupError: no task is named.
    """
    names, manager = _named(tasks, include_path)
    found: list[Media] = []
    problems: dict[str, None] = {}
    with _one_try():
        for name in dict.fromkeys(member for group in names for member in _members(group, manager)):
            media, wrong = _examine(name, manager, limit)
            found += media
            problems |= dict.fromkeys(wrong)
            if HUB in problems:  # each further try would take minutes
                constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    return found, sorted(problems, key=lambda problem: problem != HUB)


def check_tasks(tasks: str, include_path: str | None = None) -> None:
    """Check that the harness knows tasks, its own or those of a folder.

    LookupError where it does not know one, and the message has near names; or none is named.
    """
    names, manager = _named(tasks, include_path)
    for name in names:
        if name not in manager.all_tasks:
            raise LookupError(_unknown(name, manager))


def _named(tasks: str, include_path: str | None) -> tuple[list[str], TaskManager]:
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise LookupError(f"tasks {tasks!r} name no task; `lmms-eval tasks` lists them")
    if include_path and not Path(include_path).is_dir():
        raise LookupError(f"--include_path {include_path} is no folder; give the one that holds the tasks' YAML files")
    return names, TaskManager(verbosity="ERROR", include_path=include_path)


def _unknown(name: str, manager: TaskManager) -> str:
    close = get_close_matches(name, manager.all_tasks)
    hint = f"did you mean {', '.join(close)}?" if close else "`lmms-eval tasks` lists them"
    return f"no task named {name!r}; {hint}"


def _members(name: str, manager: TaskManager) -> list[str]:
    """List the tasks of a group or tag, nested ones too; the name itself where it is a task, or has other members."""
    entry = manager.task_index.get(name, {})
    if entry.get("type") not in ("group", "tag"):
        return [name]
    listed = entry["task"] if entry["task"] != -1 else load_yaml_config(entry["yaml_path"], mode="simple")["task"]
    if not all(member in manager.all_tasks for member in listed if isinstance(member, str)):
        return [name]
    return [inner for member in listed for inner in (_members(member, manager) if isinstance(member, str) else [name])]


@contextmanager
def _one_try() -> Iterator[None]:
    """Have the harness try a download once, not five times with waits between, and list missing videos, not refuse."""
    retry, before = ConfigurableTask.download.retry, os.environ.get(MISSING_VARIABLE)
    stop, offline = retry.stop, (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    retry.stop = stop_after_attempt(1)
    os.environ[MISSING_VARIABLE] = "ignore"
    try:
        yield
    finally:
        retry.stop, (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) = stop, offline
        os.environ.pop(MISSING_VARIABLE, None)
        if before is not None:
            os.environ[MISSING_VARIABLE] = before


def _examine(name: str, manager: TaskManager, limit: int | None) -> tuple[list[Media], list[str]]:
    """Load a task, unless it lacks its index: then nothing large is downloaded, and its data set is looked for only."""
    if name not in manager.all_tasks:
        return [], [_unknown(name, manager)]
    config: dict[str, Any] = {}
    problems: list[str] = []
    try:
        config = load_yaml_config(manager.task_index[name]["yaml_path"], mode="full")
        if check := getattr(config.get("process_docs"), "check", None):
            try:
                check()
            except (LookupError, OSError) as error:
                problems.append(f"{name}: {_first_line(error)}; {INDEX_WAY}, and {name}_full needs none")
        if not problems:
            found = get_task_dict([name], manager)
            return [_media(name, task, limit) for name, task in _tasks(found)], []
        once = datasets.DownloadConfig(max_retries=1)
        datasets.load_dataset_builder(config["dataset_path"], config.get("dataset_name"), download_config=once)
    except (Exception, SystemExit) as error:  # tasks are anybody's code, and load data by libraries of many errors
        problems += _told(name, config, error)
    return [], problems + _no_folder(name, config)


def _told(name: str, config: Mapping[str, Any], error: BaseException) -> list[str]:
    """Say why a task does not load, and apart from that, in one line for all tasks, that the hub cannot be reached."""
    cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
    chain = [cause]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    offline = [one for one in chain if isinstance(one, ConnectionError | TimeoutError | socket.gaierror)]
    data = f"{name}: data set {config.get('dataset_path')}"
    if offline:
        return [HUB, f"{data} is not on this machine; {DATA_WAY}"]
    if hasattr(config.get("process_docs"), "check") and isinstance(cause, LookupError | ValueError):
        return [f"{name}: {_first_line(cause)}"]  # of our own tasks, with the way on
    if isinstance(error, RetryError) or isinstance(cause, OSError):
        return [f"{data} is not to be had: {_first_line(cause)}; {DATA_WAY}"]
    where = f"`lmms-eval --tasks {name} --verbosity DEBUG` shows where"
    return [f"{name}: the task does not load: {type(cause).__name__}: {_first_line(cause)}; {where}"]


def _no_folder(name: str, config: Mapping[str, Any]) -> list[str]:
    """Say that the folder of a data set's videos is not there, which the harness makes when it downloads them."""
    settings = config.get("dataset_kwargs") or {}
    if not (settings.get("video") and settings.get("cache_dir")):
        return []
    home = os.path.expanduser(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    folder = Path(resolve_cache_dir(settings["cache_dir"], base_dir=home))
    gone = [] if folder.exists() else [folder]
    return [f"{name}: no videos: {folder} is not there; connect to the hub, or put them there" for folder in gone]


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0].removesuffix("Ways on:").rstrip(" .:")


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
