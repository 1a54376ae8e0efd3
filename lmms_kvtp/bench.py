"""Where the time of a run went, stage by stage, from the costs of its answers."""

from collections.abc import Mapping, Sequence

from lmms_kvtp.cost import SHARED, STAGES, WAITING, SampleCost
from lmms_kvtp.table import markdown

DECODER = ("decode", "preprocess")
"""Stages that another process can take over."""


def stage_seconds(costs: Sequence[SampleCost]) -> dict[str, float]:
    """Seconds of each stage over a whole run: what questions share counts once per video."""
    total = dict.fromkeys(STAGES, 0.0)
    for cost in costs:
        for stage, seconds in cost.seconds.items():
            total[stage] += seconds / (cost.questions_on_video if stage in (*SHARED, WAITING) else 1)
    return total


def one_after_the_other(seconds: Mapping[str, float]) -> float:
    """All work of a run, on one side only."""
    return sum(spent for stage, spent in seconds.items() if stage != WAITING)


def side_by_side(seconds: Mapping[str, float]) -> float:
    """The longer of the two sides, decoder and model, if neither ever waited for the other."""
    decoder = sum(seconds[stage] for stage in DECODER)
    return max(decoder, one_after_the_other(seconds) - decoder)


def waterfall(costs: Sequence[SampleCost]) -> str:
    """A table of the stages with their shares of all work, and below it the time that they would ideally take."""
    seconds = stage_seconds(costs)
    work = one_after_the_other(seconds)
    rows = [
        [stage, f"{spent:.2f}", f"{100 * spent / work:.1f}" if work and stage != WAITING else ""]
        for stage, spent in seconds.items()
    ]
    rows.append(["ideal, one after the other", f"{work:.2f}", ""])
    rows.append(["ideal, decoder beside model", f"{side_by_side(seconds):.2f}", ""])
    return markdown(["stage", "seconds", "% of work"], rows)
