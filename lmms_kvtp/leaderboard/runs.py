"""Reads what a harness run wrote: one scored answer per question, with its cost."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.files import from_json, loading, read_json
from lmms_kvtp.leaderboard.provenance import record_of, row_name

RESULTS, SAMPLES = "_results.json", "_samples_"
"""Parts of the harness's file names that follow the time of the run."""
HARNESS_ZONE = "Asia/Singapore"
"""Where the harness takes its time from, unless it is told."""
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError)
"""What comes of reading a damaged file: each place where that is caught names the file, and leaves out no other."""


class ScoredAnswer(NamedTuple):
    """One answered question; a tuple, since a large table has a million of them and sends them between processes."""

    question: str
    """Id of the question within its task."""
    video: str
    kind: str
    """Kind of question; empty where the task has no kinds."""
    score: float
    """Score in [0, 1]."""
    cost: SampleCost | None
    """Cost of the answer; None where it came out of the harness's own cache."""
    error: str | None
    """Reason why the question could not be answered."""
    sparsity: float | None = None
    """Largest over mean relevance of the video's frames, where the task knows it."""
    stock: float | None = None
    """Score by the stock task's own parser, where the task has it beside its own."""
    given: str = ""
    """Content of the chosen option, or else the answer as text."""
    kept: str = ""
    """`SampleCost.kept_probe`, since a board drops costs when they are averaged."""
    prompt: str = ""
    """What was asked, options included."""
    right: str = ""
    """Content of the right option."""


@dataclass(frozen=True)
class Run:
    """One task, run with one method."""

    name: str
    task: str
    answers: tuple[ScoredAnswer, ...]
    """Answers sorted by question."""
    config: dict[str, Any]
    """The harness's record of the run: model, arguments, versions."""

    @property
    def title(self) -> str:
        """Its name, with what the record says where that is not what the word kvtp means."""
        return row_name(self.name, record_of(self.config).get("method") or {})

    def by_stock(self) -> "Run":
        """Scored as the stock task would, where the task says it."""
        return replace(self, answers=tuple(a if a.stock is None else a._replace(score=a.stock) for a in self.answers))

    @property
    def questions(self) -> list[str]:
        """Ids of what was answered, in their order."""
        return [answer.question for answer in self.answers]

    @property
    def costs(self) -> list[SampleCost]:
        """Costs of the answers that have one."""
        return [answer.cost for answer in self.answers if answer.cost is not None]

    def of_kind(self, kind: str) -> "Run":
        """Keep only the questions of one kind."""
        return replace(self, answers=tuple(answer for answer in self.answers if answer.kind == kind))


def read_runs(folder: Path, name: str | None = None) -> list[Run]:
    """Read the newest run of each task below `folder`, what `--output_path` was; `name` is the folder's by default.

    FileNotFoundError where there are no results or samples, since the harness exits 0 when an evaluation fails. Raises
    as `read_samples`, too; ValueError names a damaged file.
    """
    results: dict[Path, dict[str, Any]] = {}
    for path in folder.rglob(f"*{RESULTS}"):
        with loading(f"no results file of the harness: {path}; remove it, and start the run again"):
            results[path] = read_json(path, dict)
    newest: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(results, key=lambda path: age(path, results[path])):
        newest |= {task: (file, results[path]) for task, file in samples_of(path).items()}
    if not newest:
        raise FileNotFoundError(
            f"no finished run below {folder} ({len(results)} results files, none with samples beside it); "
            "run the harness with --log_samples, and with --verbosity DEBUG to see why it failed"
        )
    return [read_samples(file, name or folder.name, task, config) for task, (file, config) in sorted(newest.items())]


def samples_of(results: Path) -> dict[str, Path]:
    """Sample files of a run by task: those whose names begin as that of its results file."""
    files = results.parent.glob(f"{results.name.removesuffix(RESULTS)}{SAMPLES}*.jsonl")
    return {file.stem.split(SAMPLES, 1)[1]: file for file in sorted(files)}


def age(path: Path, results: Mapping[str, Any]) -> tuple[float, str, str]:
    """What sorts runs from old to new: seconds since 1970 when it began, by its record; then name and folder.

    Seconds are 0 where the record has no date, or a time zone that is not known here.
    """
    zone = ((results.get("config") or {}).get("resolved_cli_args") or {}).get("timezone") or HARNESS_ZONE
    try:
        date = datetime.strptime(str(results.get("date")), "%Y%m%d_%H%M%S")
        began = date.replace(tzinfo=ZoneInfo(str(zone))).timestamp()
    except (ValueError, LookupError, OSError):  # a zone is looked for as a file
        began = 0.0
    return began, path.name, str(path)


def read_samples(path: Path, name: str, task: str, config: dict[str, Any]) -> Run:
    """Read the harness's sample file of one task; `config` is its results file.

    ValueError where a line is not the harness's, lacks a score, or repeats a question; it names file and line.
    """
    fields = SampleFields.of((config.get("configs") or {}).get(task) or {})
    answers: dict[str, ScoredAnswer] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                answer = _scored(from_json(line), fields)
            except DAMAGE as error:
                raise ValueError(f"{path}:{number} is not a sample with a score: {error!r}") from error
            if answer.question in answers:
                raise ValueError(f"{path}:{number} has question {answer.question!r} again; two runs share this file")
            answers[answer.question] = answer
    return Run(name, task, tuple(answers[question] for question in sorted(answers)), config)


def lacks(name: str, total: int, failed: int, costless: int) -> list[str]:
    """What a reader of a run must know of its `total` answers."""
    counts = [(failed, "questions could not be answered, counted wrong")]
    counts += [(costless, "answers came from a cache, without cost")]
    return [f"{name}: {count} of {total} {what}" for count, what in counts if count > 0]


PAIRS = (("pred_answer", "answer"), ("pred", "ground_truth"), ("prediction", "answer"), ("parsed_pred", "answer"))
"""Fields of a metric's item that hold the given answer and the right one."""
CHOSEN = ("chosen", *(pair[0] for pair in PAIRS))
"""Fields that hold the option that a task's parser read."""
VIDEOS = ("video_id", "videoID", "video_idx", "video", "video_name")
"""Fields that name the video."""
KINDS = ("kind", "task_category", "task_type", "question_type", "type")
"""Fields that name the kind of question."""


@dataclass(frozen=True)
class SampleFields:
    """Names of the fields in which a task's sample rows hold what a leaderboard needs."""

    metrics: tuple[str, ...] = ()
    """Names in the task's `metric_list`; their items may hold the score."""
    score_key: str = "score"
    cluster_key: str = "video_id"

    @staticmethod
    def of(config: Mapping[str, Any]) -> "SampleFields":
        """Read the harness's record of a task; settings that it lacks keep their defaults."""
        listed = config.get("metric_list") or ()
        names = tuple(str(entry["metric"]) for entry in listed if isinstance(entry, Mapping) and "metric" in entry)
        score_key, cluster_key = config.get("score_key") or "score", config.get("cluster_key") or "video_id"
        return SampleFields(names, str(score_key), str(cluster_key))


def _scored(row: dict[str, Any], fields: SampleFields) -> ScoredAnswer:
    counts, places = (row.get("token_counts") or [None])[0] or {}, [row, *items(row, fields)]
    question = first_of(places, ("question_id",))
    question = str(row["doc_id"] if question is None else question)
    prompt, told = str(row.get("input") or ""), first_of(places, CHOSEN)
    given = row.get("filtered_resps", "") if told is None else told
    video = first_of(places, (fields.cluster_key, *VIDEOS))
    sparsity, kept = row.get("sparsity"), str(counts.get("kept_probe") or "")
    if not re.fullmatch(r"(\d+:[0-9a-f]+)?", kept):  # pages count its bits long after its file is named
        raise ValueError(f"kept_probe {kept[:40]!r} is not a number of patches and hexadecimal digits")
    return ScoredAnswer(
        question=question,
        video=question if video is None else str(video),
        kind=str(first_of(places, KINDS) or ""),
        score=score(row, fields),
        cost=SampleCost.from_dict(counts) if "tokens_kept" in counts else None,
        error=counts.get("error"),
        sparsity=None if sparsity is None else float(sparsity),
        stock=(row.get("stock_acc") or {}).get("score"),
        given=content(str(given[0] if isinstance(given, list) and given else given), prompt),
        kept=kept,
        prompt=prompt,
        right=content(str(row.get("target", "")), prompt),
    )


@lru_cache(16384)
def content(answer: str, prompt: str) -> str:
    """The option of a prompt that an answer names by its letter, or by letter and text; other answers as they are.

    Options stand in a line each, as `A. red` or `(A) red`.
    """
    text = " ".join(answer.split())
    named = re.fullmatch(r"\(?([A-Z])\)?[.:]?(?: (.*))?", text)
    if not named:
        return text
    listed = re.findall(r"^\s*\(?([A-Z])[.):]\s*(\S.*?)\s*$", prompt, re.MULTILINE)
    option = " ".join(dict(listed).get(named[1], "").split())
    return option if option and named[2] in (None, option) else text


def first_of(places: Sequence[Any], names: Sequence[str]) -> Any:
    """The first of `names` at the top of a row, the first of `places`, or else in an item of a metric, or None."""
    for place in places:
        if isinstance(place, Mapping):
            for name in names:
                if place.get(name) is not None:
                    return place[name]
    return None


def score(row: Mapping[str, Any], fields: SampleFields) -> float:
    """The score of a sample, in [0, 1].

    It stands at the top of the row, or else in the first metric's item that is or has a number, or that has an answer
    beside the right one. KeyError where there is none, ValueError where it is NaN or outside [0, 1].
    """
    for found in _scores(row, fields):
        if not 0 <= found <= 1:  # NaN, too
            raise ValueError(f"score {found:g} is not within 0 and 1")
        return found
    raise KeyError(f"no score; looked for {fields.score_key} and for items of {', '.join(fields.metrics) or 'metrics'}")


def _scores(row: Mapping[str, Any], fields: SampleFields) -> Iterator[float]:
    if isinstance(row.get(fields.score_key), int | float):
        yield float(row[fields.score_key])
    for item in items(row, fields):
        if isinstance(item, int | float):
            yield float(item)
        elif isinstance(item, Mapping):
            if isinstance(item.get(fields.score_key), int | float):
                yield float(item[fields.score_key])
            for ours, right in PAIRS:
                if ours in item and right in item:
                    yield float(str(item[ours]).strip().lower() == str(item[right]).strip().lower())


def items(row: Mapping[str, Any], fields: SampleFields) -> list[Any]:
    """What the metrics of a task found in a row."""
    names = fields.metrics or tuple(name for name in row if name.endswith("_score"))
    return [row[name] for name in names if row.get(name) is not None]
