"""The score, cluster and kind of a question in the sample rows of our tasks and of the harness's own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
