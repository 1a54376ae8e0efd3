"""Accuracies of unpruned models that were measured or published before, and the gate for published ones."""

import json
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any

from lmms_kvtp.leaderboard.discover import discover
from lmms_kvtp.leaderboard.gates import Gate
from lmms_kvtp.leaderboard.runs import read_samples
from lmms_kvtp.leaderboard.stats import accuracy
from lmms_kvtp.shipped import MANIFEST, shipped_folder

SIGMAS = 3.0
"""Standard errors of the difference by which two measurements of one model may differ."""
RECORDED = Path(__file__).parent / "recorded.json"


@dataclass(frozen=True)
class Expected:
    """The accuracy of an unpruned model on questions of one kind."""

    accuracy: float
    """Share of right answers."""
    stderr: float
    """Standard error of the accuracy, clustered by video where that is known."""
    questions: int
    source: str

    def spread(self, questions: int) -> float:
        """Standard error of the accuracy on that many questions."""
        return float(self.stderr * (self.questions / questions) ** 0.5)

    def margin(self, questions: int) -> float:
        """Largest difference to the accuracy on that many other questions: SIGMAS standard errors of it."""
        return SIGMAS * hypot(self.stderr, self.spread(questions))


def recorded(model: str) -> Expected | None:
    """Accuracy of the embedded model on the synthetic benchmark's test split; None for other models and weights."""
    if model != "tiny":
        return None
    values = _read()["tiny"]
    shipped = json.loads((shipped_folder("tiny") / MANIFEST).read_text(encoding="utf-8"))
    if shipped["model.safetensors"] != values.pop("weights"):
        return None
    return Expected(**values)


def published(model: str, frames: int, task: str) -> Expected | None:
    """Accuracy that papers report of a model without pruning, on a task of the harness; None where none is known.

    Of `model`, a hub id or folder, only the last part counts; `frames` are the most of a video.
    """
    name = model.rstrip("/").rpartition("/")[2].lower()
    for row in _read()["published"]:
        if (row["model"], row["frames"], row["task"]) == (name, frames, task):
            share, count = float(row["accuracy"]), int(row["questions"])
            return Expected(share, (share * (1 - share) / count) ** 0.5, count, str(row["source"]))
    return None


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def published_accuracy(folder: Path) -> Gate:
    """Every unpruned run below `folder` has the published accuracy, on each task for which there is one, within a band.

    The band is two standard errors of a share of as many questions to either side. Noise is less, since the questions
    are the paper's own, so the gate sees a wrong checkpoint, template or frame count, but no fault of a point.
    FileNotFoundError where there is no run, ValueError where a sample file is damaged.
    """
    name, shown, apart = "published accuracy", [], False
    for run in discover([folder])[0]:
        record = run.provenance
        for task, path in run.samples.items():
            expected = published(record.model.partition(" ")[0], int(record.frames.get("max_frames_num") or 0), task)
            if expected is None or not record.unpruned:
                continue
            found = accuracy(read_samples(path, record.label, task, run.results))
            margin = 200 * expected.spread(found.count)
            apart |= abs(found.mean - 100 * expected.accuracy) > margin
            published_range = f"{100 * expected.accuracy:.1f} ± {margin:.1f} %"
            shown.append(f"{task}: {found.mean:.1f} % of {found.count}, published {published_range}")
    if not shown:
        return Gate(name, None, f"no unpruned run in {folder} is of a model, frames and task with a published score")
    return Gate(name, not apart, "; ".join(shown))
