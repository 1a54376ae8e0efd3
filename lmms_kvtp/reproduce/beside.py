"""Finished runs beside the paper's figures."""

from pathlib import Path

from lmms_kvtp.leaderboard.runs import Run, read_runs
from lmms_kvtp.leaderboard.stats import accuracy
from lmms_kvtp.rendering import markdown
from lmms_kvtp.reproduce.paper import TASKS
from lmms_kvtp.reproduce.plan import HARNESS_TASKS, Plan, Step

NOT_RUN = "not run"


def beside(plan: Plan) -> str:
    """A Markdown table: for each run of a plan and each subset, here against the paper.

    Raises:
        ValueError: a folder holds something else than results; the message names file and line.
    """
    header = ["row", *(f"{task}, {what}" for task in TASKS for what in ("paper", "here", "difference")), "tokens"]
    return markdown(header, [_row(step) for step in plan.steps if step.folder])


def _row(step: Step) -> list[str]:
    runs = {run.task.removesuffix("_full"): run for run in _read(step)}
    cells = [step.name]
    for task in TASKS:
        reported, run = step.expected.get(task), runs.get(HARNESS_TASKS[task])
        here = accuracy(run) if run else None
        cells += [f"{reported:.2f}" if reported is not None else "-", str(here) if here else NOT_RUN]
        cells.append(f"{here.mean - reported:+.1f}" if here and reported is not None else "-")
    return [*cells, _tokens(list(runs.values()))]


def _read(step: Step) -> list[Run]:
    try:
        return read_runs(Path(step.folder), step.name)
    except FileNotFoundError:
        return []


def _tokens(runs: list[Run]) -> str:
    """Share of vision tokens that entered, as measured."""
    costs = [record.cost for run in runs for record in run.records if record.cost is not None]
    before = sum(cost.tokens_before for cost in costs)
    return f"{sum(cost.tokens_kept for cost in costs) / before:.1%}" if before else "-"
