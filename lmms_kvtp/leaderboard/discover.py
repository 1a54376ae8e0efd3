"""Finds the runs below some folders and reads them; says of each file that looks like a run why it is not one."""

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from lmms_kvtp.cost.mean import MeanCost, mean_cost
from lmms_kvtp.files import from_json
from lmms_kvtp.leaderboard.provenance import Provenance, provenance
from lmms_kvtp.leaderboard.runs import DAMAGE, RESULTS, Run, age, read_samples, samples_of

JOURNAL = "_journal_rank"
SAID = 200
"""Most letters that are shown of what is wrong with a file: it may be all of it."""


@dataclass(frozen=True)
class FoundRun:
    """The results file of a run and its sample files."""

    path: Path
    results: dict[str, Any]
    provenance: Provenance
    samples: dict[str, Path]
    """Sample files by task."""


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the table, and why."""

    what: str
    why: str


def discover(folders: Sequence[Path]) -> tuple[list[FoundRun], list[LeftOut]]:
    """Find all runs; of several runs of one method in one folder, only the newest.

    FileNotFoundError where a folder does not exist, or there is no results file in any of them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; give what --output_path of the harness was")
    files = sorted({path for folder in folders for path in folder.rglob(f"*{RESULTS}")})
    found: dict[tuple[str, ...], FoundRun] = {}
    left = list(_interrupted(folders))
    for path in files:
        try:
            run = _read_results(path)
            key = (str(path.parent), run.provenance.command, json.dumps(run.provenance.method, sort_keys=True))
        except DAMAGE as error:
            left.append(LeftOut(str(path), fault(error)))
            continue
        older, found[key] = sorted((found.get(key, run), run), key=lambda one: age(one.path, one.results))
        if older is not found[key]:
            left.append(LeftOut(str(older.path), f"superseded by {found[key].path.name}, the same command"))
    if not found:
        reasons = "".join(f"\n  {item.what}: {item.why}" for item in left)
        raise FileNotFoundError(
            f"no finished run below {', '.join(map(str, folders))}; run the harness with --log_samples "
            f"and --output_path, and with --verbosity DEBUG to see why it failed{reasons}"
        )
    return list(found.values()), left


def read_checked(path: Path, schema: str, what: str) -> Any:
    """Read a JSON file that keeps to a schema of this folder; ValueError says in one line why it is no `what`."""
    try:
        content = from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    wrong = best_match(_schema(schema).iter_errors(content))
    if wrong is not None:
        raise ValueError(f"not {what}: {wrong.json_path}: {wrong.message[-SAID:]}")
    return content


def _read_results(path: Path) -> FoundRun:
    results = read_checked(path, "results_schema.json", "a results file of the harness")
    samples, origin = samples_of(path), provenance(results)
    if not samples:
        raise ValueError("no sample files beside it; run the harness with --log_samples")
    return FoundRun(path, results, origin, samples)


@cache
def _schema(name: str) -> Any:
    return Draft202012Validator(json.loads((Path(__file__).parent / name).read_text(encoding="utf-8")))


def fault(error: Exception) -> str:
    """Say in one line what is wrong with a file."""
    return str(error) if isinstance(error, ValueError) else f"damaged: {error!r}"


def _interrupted(folders: Sequence[Path]) -> Iterator[LeftOut]:
    """Folders that hold a journal of answers but no results."""
    journals = sorted({path for folder in folders for path in folder.rglob(f"*{JOURNAL}*.jsonl") if path.is_file()})
    for path in journals:
        home = path.parent.parent if path.parent.name == "journal" else path.parent  # a sweep has folders of journals
        if not any(home.rglob(f"*{RESULTS}")):
            with path.open("rb") as lines:
                count = max(0, sum(1 for _ in lines) - 1)
            yield LeftOut(str(path), f"interrupted after {count} answers; start the command again with resume={path}")


def read_proofs(folder: Path) -> tuple[list[dict[str, Any]], list[LeftOut]]:
    """Read all that `lmms-kvtp prove` wrote; and what breaks the schema, or is of the embedded model, as left out.

    A proof is what proof_schema.json describes, with the name of its `file`, and with `steps` by their names.
    FileNotFoundError where there is no folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give the one that holds what `lmms-kvtp prove` wrote")
    proofs, left = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_checked(path, "proof_schema.json", "a proof")
            steps = {step["name"]: step for step in content["steps"]}
            if (steps["load"]["found"] or {}).get("toy"):
                raise ValueError("it is of the embedded model; a row here is of real weights")
            proofs.append({**content, "file": path.name, "steps": steps})
        except ValueError as error:
            left.append(LeftOut(path.name, str(error)))
    return proofs, left


SampleFile = tuple[Path, str, str, dict[str, Any]]
"""A sample file, and the other arguments of `read_samples`."""


@dataclass(frozen=True)
class RunSummary:
    """What a leaderboard needs of a sample file."""

    run: Run
    """Questions, scores and answers, without costs and prompts, which take most of the memory, and without the
    harness's record."""
    cost: MeanCost | None
    """Mean cost; None where no answer has its cost."""
    costless: int
    """Answers without cost, not counting those that failed."""


def summarize(file: SampleFile) -> RunSummary:
    """Read a sample file and average its costs; ValueError names a file that is empty, or a line that is no sample."""
    run = read_samples(*file)
    if not run.answers:
        raise ValueError(f"{file[0]} holds no sample")
    light = tuple(answer._replace(cost=None, prompt="", right="") for answer in run.answers)
    costless = sum(answer.cost is None and answer.error is None for answer in run.answers)
    return RunSummary(replace(run, answers=light, config={}), mean_cost(run.costs), costless)


@dataclass(frozen=True)
class PendingRuns:
    """Runs that other processes may still be reading."""

    files: Sequence[tuple[FoundRun, str, Callable[[], RunSummary]]]
    """Run and task of each sample file, and a function that waits for its summary, see `pending_summaries`."""
    left: Sequence[LeftOut]


@contextmanager
def pending_runs(folders: Sequence[Path], processes: int) -> Iterator[PendingRuns]:
    """Find all runs and begin to read them, in at most `processes` processes; raises as `discover` does."""
    found, left = discover(folders)
    runs = [(run, task) for run in found for task in run.samples]
    files = [(run.samples[task], run.provenance.label, task, run.results) for run, task in runs]
    with pending_summaries(files, processes) as summaries:
        yield PendingRuns([(*run, summary) for run, summary in zip(runs, summaries, strict=True)], left)


SHARE = 32 * 2**20
"""Bytes of samples for which it pays to start a process."""


@contextmanager
def pending_summaries(files: Sequence[SampleFile], processes: int) -> Iterator[list[Callable[[], RunSummary]]]:
    """For each file a function that returns what `summarize` returns for it, or raises what that raises.

    It takes at most `processes`; fewer where there is little to read, and no other process for a few files.
    """
    count = min(processes, len(files), sum(path.stat().st_size for path, *_ in files if path.is_file()) // SHARE)
    collecting = gc.isenabled()
    gc.disable()  # reading makes millions of small objects and no cycles, and the search for these takes long
    try:
        if count < 2:
            yield [partial(summarize, file) for file in files]
            return
        with ProcessPoolExecutor(count, get_context("spawn"), initializer=become_reader) as pool:
            yield [pool.submit(summarize, file).result for file in files]
    finally:
        if collecting:
            gc.enable()


def become_reader() -> None:
    """Make a reading process yield to the main one, which has more to do and does it alone."""
    gc.disable()
    if hasattr(os, "nice"):
        os.nice(10)
