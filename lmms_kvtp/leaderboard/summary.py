"""The comparison table of some runs of one task."""

from collections.abc import Sequence
from statistics import mean

from lmms_kvtp.cost.sample import timed
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.leaderboard.stats import accuracy, difference
from lmms_kvtp.rendering import markdown

MISSING = "-"


def summary(runs: Sequence[Run]) -> str:
    """A Markdown table: one row per run, with differences against the first run, the unpruned model.

    Accuracy is in points of 100 with standard errors clustered by video; tokens and seconds are means per question,
    from costs that were measured in the run, seconds without its warm-up.
    """
    kinds = sorted({record.kind for record in runs[0].records} - {""})
    header = ["method", "vision tokens kept", "of all", "accuracy", "against all tokens", "seconds", *kinds]
    return markdown(header, [_row(run, runs[0], kinds) for run in runs])


def _row(run: Run, baseline: Run, kinds: Sequence[str]) -> list[str]:
    costs = [record.cost for record in run.records if record.cost is not None]
    cells = [run.name]
    if costs:
        kept, before = mean(cost.tokens_kept for cost in costs), mean(cost.tokens_before for cost in costs)
        cells += [f"{kept:.0f}", f"{kept / before:.1%}"]
    else:
        cells += [MISSING, MISSING]
    cells += [str(accuracy(run)), MISSING if run is baseline else f"{difference(run, baseline)}"]
    cells += [f"{mean(cost.seconds_total for cost in timed(costs)):.2f}" if costs else MISSING]
    return cells + [f"{accuracy(run.of_kind(kind)).mean:.0f}" for kind in kinds]


def problems(runs: Sequence[Run]) -> list[str]:
    """What a reader of the table must know: samples that failed or carry no cost."""
    notes = []
    for run in runs:
        failed = sum(record.error is not None for record in run.records)
        costless = sum(record.cost is None for record in run.records) - failed
        if failed:
            notes.append(f"{run.name}: {failed} of {len(run.records)} questions could not be answered, counted wrong")
        if costless > 0:
            notes.append(f"{run.name}: {costless} of {len(run.records)} answers came from a cache, without cost")
    return notes
