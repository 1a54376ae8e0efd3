"""Reads what a harness run wrote: one record per question, with its score and its cost."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.leaderboard.scores import KINDS, VIDEOS, Layout, find, score

RESULTS, SAMPLES = "_results.json", "_samples_"
"""What the harness's file names hold, behind the time of the run."""


class Record(NamedTuple):
    """One answered question; a tuple, since a large table has a million of them and sends them between processes."""

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
    sparsity: float | None = None
    """Largest over mean relevance of the video's frames, where the task knows it."""


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
        return replace(self, records=tuple(r for r in self.records if r.kind == kind))


def read_runs(folder: Path, name: str | None = None) -> list[Run]:
    """Read the newest run of each task below `folder`.

    Args:
        folder: what `--output_path` was.
        name: of the runs; the folder's name by default.

    Raises:
        FileNotFoundError: no results or no samples; the harness exits 0 when an evaluation fails.
        ValueError: a sample file that is not the harness's, or lacks a score; the message names file and line.
    """
    results = sorted(folder.rglob(f"*{RESULTS}"))
    samples = sorted(folder.rglob(f"*{SAMPLES}*.jsonl"))
    if not results or not samples:
        raise FileNotFoundError(
            f"no finished run below {folder} ({len(results)} results files, {len(samples)} sample files); "
            "run the harness with --log_samples, and with --verbosity DEBUG to see why it failed"
        )
    config = json.loads(results[-1].read_text())
    newest = {path.stem.split(SAMPLES, 1)[1]: path for path in samples}
    return [read_samples(path, name or folder.name, task, config) for task, path in sorted(newest.items())]


def read_samples(path: Path, name: str, task: str, config: dict[str, Any]) -> Run:
    """Read the sample file of one task.

    Args:
        path: the harness's `*_samples_*.jsonl`.
        name: of the run.
        task: its name.
        config: the harness's results file.

    Raises:
        ValueError: a line is not the harness's, lacks a score, or repeats a question; the message names file and line.
    """
    layout = Layout.of((config.get("configs") or {}).get(task) or {})
    records: dict[str, Record] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = _record(_parse(line), layout)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}:{number} is not a sample with a score: {error!r}") from error
            if record.question in records:
                raise ValueError(f"{path}:{number} has question {record.question!r} again; two runs share this file")
            records[record.question] = record
    return Run(name, task, tuple(records[question] for question in sorted(records)), config)


def _parse(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # NaN and lone surrogates, which the harness writes, are no JSON
        return json.loads(line)


def _record(row: dict[str, Any], layout: Layout) -> Record:
    counts = (row.get("token_counts") or [None])[0] or {}
    question = find(row, ("question_id",), layout)
    question = str(row["doc_id"] if question is None else question)
    video = find(row, (layout.cluster_key, *VIDEOS), layout)
    sparsity = row.get("sparsity")
    return Record(
        question=question,
        video=question if video is None else str(video),
        kind=str(find(row, KINDS, layout) or ""),
        score=score(row, layout),
        cost=SampleCost.from_dict(counts) if "tokens_kept" in counts else None,
        error=counts.get("error"),
        sparsity=None if sparsity is None else float(sparsity),
    )
