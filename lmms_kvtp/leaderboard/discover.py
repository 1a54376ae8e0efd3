"""Finds the runs below some folders, and says of each file that looks like a run why it is not one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_kvtp.leaderboard.provenance import Provenance, provenance
from lmms_kvtp.leaderboard.runs import RESULTS, SAMPLES

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
