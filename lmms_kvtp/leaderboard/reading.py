"""Reads many sample files, in several processes where there is much to read. Imports nothing that is slow to load."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lmms_kvtp.leaderboard.costs import CostSummary, summarise
from lmms_kvtp.leaderboard.discover import Found, LeftOut, discover
from lmms_kvtp.leaderboard.runs import Run, read_samples

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
