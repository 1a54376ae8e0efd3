"""Finished runs of an unpruned model, held against what papers report of it."""

from pathlib import Path

from lmms_kvtp.doctor.expected import published
from lmms_kvtp.doctor.gates import Gate
from lmms_kvtp.leaderboard.discover import discover
from lmms_kvtp.leaderboard.runs import read_samples
from lmms_kvtp.leaderboard.stats import accuracy

NAME = "published accuracy"


def published_accuracy(folder: Path) -> Gate:
    """Each task of each unpruned run below `folder` that has a published score lies within its band.

    The band is two standard errors of a share of as many questions to either side, although they are the paper's own
    and noise on them is less: a wrong checkpoint, template or frame count is further away, a fault of a point is not.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a sample file is damaged.
    """
    shown, apart = [], False
    for run in discover([folder])[0]:
        record = run.provenance
        for task, path in run.samples.items():
            expected = published(record.model.partition(" ")[0], int(record.frames.get("max_frames_num") or 0), task)
            if expected is None or not record.unpruned:
                continue
            found = accuracy(read_samples(path, record.label, task, run.results))
            margin = 200 * expected.spread(found.count)
            apart |= abs(found.mean - 100 * expected.accuracy) > margin
            shown.append(
                f"{task}: {found.mean:.1f} % of {found.count}, published {100 * expected.accuracy:.1f} ± {margin:.1f} %"
            )
    if not shown:
        return Gate(NAME, None, f"no unpruned run in {folder} is of a model, frames and task with a published score")
    return Gate(NAME, not apart, "; ".join(shown))
