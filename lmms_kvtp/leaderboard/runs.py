"""Reads what a harness run wrote: one record per question, with its score and its cost."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import orjson

from lmms_kvtp.cost.sample import SampleCost, timed

PAIRS = (("pred_answer", "answer"), ("pred", "ground_truth"), ("prediction", "answer"))
"""Fields of a metric's item that hold what was answered and what is right."""
VIDEOS = ("video_id", "videoID", "video_idx", "video", "video_name")
KINDS = ("kind", "task_category", "task_type", "question_type", "type")


@dataclass(frozen=True)
class Layout:
    """Where a task's sample rows have what a leaderboard needs."""

    metrics: tuple[str, ...] = ()
    """Names in the task's `metric_list`; their items may hold the score."""
    score_key: str = "score"
    cluster_key: str = "video_id"

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Layout":
        """Read the harness's record of a task; settings that it lacks keep their defaults."""
        listed = config.get("metric_list") or ()
        names = tuple(str(entry["metric"]) for entry in listed if isinstance(entry, Mapping) and "metric" in entry)
        return Layout(names, str(config.get("score_key") or "score"), str(config.get("cluster_key") or "video_id"))


def score(row: Mapping[str, Any], layout: Layout) -> float:
    """The score of a sample, in [0, 1].

    Found at the top of the row, else in the first metric's item that has a number, or an answer beside the right one.

    Raises:
        KeyError: nothing of that kind is there.
        ValueError: it is NaN or outside [0, 1].
    """
    for found in _scores(row, layout):
        if not 0 <= found <= 1:  # NaN, too
            raise ValueError(f"score {found:g} is not within 0 and 1")
        return found
    raise KeyError(f"no score; looked for {layout.score_key} and for items of {', '.join(layout.metrics) or 'metrics'}")


def _scores(row: Mapping[str, Any], layout: Layout) -> Iterator[float]:
    if isinstance(row.get(layout.score_key), int | float):
        yield float(row[layout.score_key])
    for item in _items(row, layout):
        if isinstance(item, int | float):
            yield float(item)
        elif isinstance(item, Mapping):
            if isinstance(item.get(layout.score_key), int | float):
                yield float(item[layout.score_key])
            for ours, right in PAIRS:
                if ours in item and right in item:
                    yield float(str(item[ours]).strip().lower() == str(item[right]).strip().lower())


def find(row: Mapping[str, Any], names: Sequence[str], layout: Layout) -> Any:
    """The first of `names` at the top of a row, or else in an item of a metric; None where there is none."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    for item in _items(row, layout):
        if isinstance(item, Mapping):
            for name in names:
                if item.get(name) is not None:
                    return item[name]
    return None


def _items(row: Mapping[str, Any], layout: Layout) -> Iterator[Any]:
    names = layout.metrics or tuple(name for name in row if name.endswith("_score"))
    return (row[name] for name in names if row.get(name) is not None)


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


SHARED = "shared"
"""Stands beside seconds of a sweep."""


@dataclass(frozen=True)
class CostSummary:
    """Means per question over the answers that carry their cost."""

    count: int
    """Answers with cost."""
    tokens_before: float
    tokens_kept: float
    tokens_structural: float
    prompt_tokens: float
    flops: float | None
    """All stages that have a closed form; None where an answer lacks them. Convention: docs/costs.md."""
    seconds: float
    """Shared stages divided among the questions on a video, without each process's first video, its warm-up."""
    peak_bytes: int | None
    """The largest; None on a CPU."""
    swept: bool = False
    """Seconds are of a sweep, whose methods share encoders: no measure of this one."""

    @property
    def seconds_text(self) -> str:
        """`0.52`, and `0.52 shared` of a sweep."""
        return f"{self.seconds:.2f}" + (f" {SHARED}" if self.swept else "")

    @property
    def keep_ratio(self) -> float:
        """Vision tokens that entered the language model over those of the unpruned model."""
        return self.tokens_kept / self.tokens_before if self.tokens_before else 1.0


def summarise(costs: Sequence[SampleCost]) -> CostSummary | None:
    """Means of costs; None where there are none."""
    if not costs:
        return None
    count = len(costs)
    flops = [sum(cost.flops.values()) for cost in costs]
    peaks = [cost.peak_bytes for cost in costs if cost.peak_bytes is not None]
    return CostSummary(
        count=count,
        tokens_before=sum(cost.tokens_before for cost in costs) / count,
        tokens_kept=sum(cost.tokens_kept for cost in costs) / count,
        tokens_structural=sum(cost.tokens_structural for cost in costs) / count,
        prompt_tokens=sum(cost.prompt_tokens for cost in costs) / count,
        flops=sum(flops) / count if all(flops) else None,
        seconds=fmean([cost.seconds_total for cost in timed(costs)]),
        peak_bytes=max(peaks, default=None),
        swept=any(cost.swept for cost in costs),
    )
