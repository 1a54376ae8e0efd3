"""Aggregates finished runs of the harness into tables, verdicts, pages and data frames."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from lmms_kvtp.leaderboard.discover import SampleFile


def load(runs: Path | str | Sequence[Path | str]) -> "pandas.DataFrame":
    """Read all answers below some folders as a data frame: a line for each method, task and question.

    Columns: method (as a board labels it), task, path, those of `leaderboard.runs.ScoredAnswer`, and those of
    `SampleCost`, whose seconds and flops are sums over stages. Runs that a board would refuse are read, too.

    FileNotFoundError where there is no run; ValueError where a sample file is damaged.
    """
    from lmms_kvtp.leaderboard.discover import discover
    from lmms_kvtp.leaderboard.provenance import names

    found, _ = discover([Path(run) for run in ([runs] if isinstance(runs, Path | str) else runs)])
    named = zip(found, names([run.provenance for run in found]), strict=True)
    return frame((file, name, task, run.results) for run, name in named for task, file in run.samples.items())


def frame(files: "Iterable[SampleFile]") -> "pandas.DataFrame":
    """Read some sample files as `load` does."""
    import pandas

    from lmms_kvtp.leaderboard.runs import read_samples

    lines = []
    for file in files:
        for answer in read_samples(*file).answers:
            cost, same = answer.cost, {"method": file[1], "task": file[2], "path": str(file[0])}
            sums = {"seconds": cost.seconds_total, "flops": cost.flops_total} if cost else {}
            lines.append({**same, **answer._asdict(), **(vars(cost) if cost else {}), **sums})
    return pandas.DataFrame(lines).drop(columns="cost")
