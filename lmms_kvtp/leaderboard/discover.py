"""Finds the runs below some folders, and says of each file that looks like a run why it is not one."""

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lmms_kvtp.leaderboard.provenance import Provenance, provenance
from lmms_kvtp.leaderboard.runs import RESULTS, SAMPLES, CostSummary, Run, read_samples, summarise

JOURNAL = "_journal_rank"


@dataclass(frozen=True)
class Found:
    """The results file of a run and its sample files."""

    path: Path
    results: dict[str, Any]
    provenance: Provenance
    samples: dict[str, Path]
    """By task."""


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the table, and why."""

    what: str
    why: str


def discover(folders: Sequence[Path]) -> tuple[list[Found], list[LeftOut]]:
    """Find all runs; of equal runs of one method in one folder, the newest.

    Raises:
        FileNotFoundError: a folder does not exist, or there is no results file in any of them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; give what --output_path of the harness was")
    files = sorted({path for folder in folders for path in folder.rglob(f"*{RESULTS}")})
    found: dict[tuple[str, ...], Found] = {}
    left = list(_interrupted(folders))
    for path in files:  # the time is the first part of the name, so that the newest comes last
        try:
            run = _read(path)
        except ValueError as error:
            left.append(LeftOut(str(path), str(error)))
            continue
        key = (str(path.parent), run.provenance.command, json.dumps(run.provenance.method, sort_keys=True))
        if key in found:
            left.append(LeftOut(str(found[key].path), f"superseded by {path.name}, the same command"))
        found[key] = run
    if not found:
        reasons = "".join(f"\n  {item.what}: {item.why}" for item in left)
        raise FileNotFoundError(
            f"no finished run below {', '.join(map(str, folders))}; run the harness with --log_samples "
            f"and --output_path, and with --verbosity DEBUG to see why it failed{reasons}"
        )
    return list(found.values()), left


def _read(path: Path) -> Found:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(results, dict):
        raise ValueError("not a results file of the harness: no JSON object")
    stamp = path.name.removesuffix(RESULTS)
    samples = {file.stem.split(SAMPLES, 1)[1]: file for file in sorted(path.parent.glob(f"{stamp}{SAMPLES}*.jsonl"))}
    record = provenance(results)
    if not samples:
        raise ValueError("no sample files beside it; run the harness with --log_samples")
    return Found(path, results, record, samples)


def _interrupted(folders: Sequence[Path]) -> Iterator[LeftOut]:
    """Folders that hold a journal of answers but no results."""
    journals = sorted({path for folder in folders for path in folder.rglob(f"*{JOURNAL}*.jsonl")})
    for path in journals:
        home = path.parent.parent if path.parent.name == "journal" else path.parent  # a sweep has folders of journals
        if not any(home.rglob(f"*{RESULTS}")):
            with path.open("rb") as lines:
                count = max(0, sum(1 for _ in lines) - 1)
            yield LeftOut(str(path), f"interrupted after {count} answers; start the command again with resume={path}")


SHARE = 32 * 2**20
"""Bytes of samples for which a process is worth its start."""


@dataclass(frozen=True)
class Samples:
    """A sample file."""

    path: Path
    name: str
    """Of its run."""
    task: str
    config: dict[str, Any]
    """The harness's results file."""


@dataclass(frozen=True)
class Read:
    """What a leaderboard needs of a sample file."""

    run: Run
    """Without costs, which take most of the memory, and without the harness's record."""
    cost: CostSummary | None
    """None where no answer has its cost."""
    costless: int
    """Answers without cost, beside those that failed."""


@dataclass(frozen=True)
class Readings:
    """Runs that are being read."""

    files: Sequence[tuple[Found, str]]
    """Run and task of each sample file."""
    results: Sequence[Callable[[], Read]]
    """For each of `files`, see `reading`."""
    left: Sequence[LeftOut]


def read(samples: Samples) -> Read:
    """Read a sample file, and sum up its costs.

    Raises:
        ValueError: there is no sample, or a line that is none; the message names it.
    """
    run = read_samples(samples.path, samples.name, samples.task, samples.config)
    if not run.records:
        raise ValueError(f"{samples.path} holds no sample")
    costs = [record.cost for record in run.records if record.cost is not None]
    light = tuple(record._replace(cost=None) for record in run.records)
    costless = sum(record.cost is None and record.error is None for record in run.records)
    return Read(replace(run, records=light, config={}), summarise(costs), costless)


@contextmanager
def reading(files: Sequence[Samples], processes: int) -> Iterator[list[Callable[[], Read]]]:
    """For each file a function that gives what `read` does of it, or raises what that raises.

    Args:
        files: in any order.
        processes: at most; there are fewer where there is little to read, and none beside this one for a few files.
    """
    with _no_collection():
        yield from _reading(files, processes)


def _reading(files: Sequence[Samples], processes: int) -> Iterator[list[Callable[[], Read]]]:
    count = min(processes, len(files), sum(file.path.stat().st_size for file in files) // SHARE)
    if count < 2:
        yield [partial(read, file) for file in files]
        return
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin) as pool:
        yield [pool.submit(read, file).result for file in files]


def _begin() -> None:
    """In a process that reads: the one that it works for goes first, since that has more to do, alone."""
    gc.disable()
    if hasattr(os, "nice"):
        os.nice(10)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Reading makes millions of small objects and no cycles, and looking for cycles among them takes long."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def reading_runs(folders: Sequence[Path], processes: int) -> Iterator[Readings]:
    """Find all runs and begin to read them, by at most so many processes; raises as `discover` does."""
    found, left = discover(folders)
    whole = [(run, task, path) for run in found for task, path in run.samples.items()]
    with reading(
        [Samples(path, run.provenance.label, task, run.results) for run, task, path in whole], processes
    ) as results:
        yield Readings([(run, task) for run, task, _ in whole], results, left)
