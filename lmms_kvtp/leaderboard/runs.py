"""Reads what a harness run wrote: one record per question, with its score and its cost."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_kvtp.cost import SampleCost


@dataclass(frozen=True)
class Record:
    """One answered question."""

    question: str
    """Its id within the task."""
    video: str
    kind: str
    """Kind of question, where the task has kinds; else empty."""
    score: float
    """In [0, 1]."""
    cost: SampleCost | None
    """None for answers that came out of the harness's own cache."""
    error: str | None
    """Why it could not be answered."""


@dataclass(frozen=True)
class Run:
    """One task, run with one method."""

    name: str
    task: str
    records: tuple[Record, ...]
    """Sorted by question."""
    config: dict[str, Any]
    """The harness's record of the run: model, arguments, versions."""

    def of_kind(self, kind: str) -> "Run":
        """Only the questions of one kind."""
        return Run(self.name, self.task, tuple(r for r in self.records if r.kind == kind), self.config)


def read_runs(folder: Path, name: str | None = None) -> list[Run]:
    """Read the newest run of each task below `folder`.

    Args:
        folder: what `--output_path` was.
        name: of the runs; the folder's name by default.

    Raises:
        FileNotFoundError: no results or no samples; the harness exits 0 when an evaluation fails.
        ValueError: a sample file that is not the harness's, or lacks a score; the message names file and line.
    """
    results = sorted(folder.rglob("*_results.json"))
    samples = sorted(folder.rglob("*_samples_*.jsonl"))
    if not results or not samples:
        raise FileNotFoundError(
            f"no finished run below {folder} ({len(results)} results files, {len(samples)} sample files); "
            "run the harness with --log_samples, and with --verbosity DEBUG to see why it failed"
        )
    config = json.loads(results[-1].read_text())
    newest = {path.stem.split("_samples_", 1)[1]: path for path in samples}
    return [_read(path, name or folder.name, task, config) for task, path in sorted(newest.items())]


def _read(path: Path, name: str, task: str, config: dict[str, Any]) -> Run:
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            records.append(_record(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number} is not a sample with a score: {error!r}") from error
    return Run(name, task, tuple(sorted(records, key=lambda record: record.question)), config)


def _record(row: dict[str, Any]) -> Record:
    counts = (row.get("token_counts") or [None])[0] or {}
    question = str(row.get("question_id", row["doc_id"]))
    return Record(
        question=question,
        video=str(row.get("video_id", question)),
        kind=str(row.get("kind", "")),
        score=float(row["score"]),
        cost=SampleCost.from_dict(counts) if "tokens_kept" in counts else None,
        error=counts.get("error"),
    )
