"""Where the time of a run went, stage by stage, beside the least that each stage could take."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.cost.sample import SHARED, STAGES, WAITING, SampleCost, timed
from lmms_kvtp.rendering import markdown
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.pixels import PixelSpec

DECODER = ("decode", "preprocess")
"""Stages that another process can take over from the model's."""
SHARES = (50, 90, 99)
"""Percentiles of the seconds of an answer that are told."""


def stage_seconds(costs: Sequence[SampleCost]) -> dict[str, float]:
    """Seconds of each stage over a whole run, with shared stages once per video."""
    total = dict.fromkeys(STAGES, 0.0)
    for cost in costs:
        for stage, seconds in cost.seconds.items():
            total[stage] += seconds / (cost.questions_on_video if stage in (*SHARED, WAITING) else 1)
    return total


def decoder_alone(videos: Iterable[Video], spec: Callable[[int], PixelSpec]) -> dict[str, float]:
    """Measure the seconds to decode videos and to make pixels, as `spec` wants them of so many frames, alone."""
    meter = Meter(torch.device("cpu"))
    for video in videos:
        chunks, wanted = video.chunks(), spec(len(video.timing.indices) if video.timing else 0)
        while True:
            with meter.stage("decode"):
                frames = next(chunks, None)
            if frames is None:
                break
            with meter.stage("preprocess"):
                frames.pixels(wanted)
    return meter.seconds


def stage_floors(costs: Sequence[SampleCost], rate: float, alone: Mapping[str, float]) -> dict[str, float]:
    """The least seconds that each stage of a whole run could take on this machine.

    These are `alone`, seconds of stages without matrix products that were measured with nothing else running, and for
    every stage of known operations these over `rate`, measured operations a second of large matrix products. Prefill's
    attention is causal, and the projector belongs to vision.
    """
    total: dict[str, float] = {}
    for cost in costs:
        flops = {**cost.flops, "prefill": cost.prefill_flops_causal}
        for name, operations in flops.items():
            stage = "vision" if name == "projector" else name
            share = cost.questions_on_video if stage in SHARED else 1
            total[stage] = total.get(stage, 0.0) + operations / share / rate
    return {**total, **alone}


def one_after_the_other(seconds: Mapping[str, float]) -> float:
    """Seconds of all work of a run, if nothing runs at the same time."""
    return sum((spent for stage, spent in seconds.items() if stage != WAITING), start=0.0)


def side_by_side(seconds: Mapping[str, float]) -> float:
    """Seconds of the longer of two sides, decoder and model, if neither ever waited for the other."""
    decoder = sum((seconds.get(stage, 0.0) for stage in DECODER), start=0.0)
    return max(decoder, one_after_the_other(seconds) - decoder)


def waterfall(costs: Sequence[SampleCost], floors: Mapping[str, float] | None = None) -> str:
    """A table of the stages with their shares of all work and their floors, and of the ideals for the whole run.

    Behind it stand percentiles of the answers' seconds, and a warning where a stage took less than its floor.

    Without `floors` there are only the ideals for work that runs at the same time.
    """
    seconds = stage_seconds(costs)
    work, least = one_after_the_other(seconds), dict(floors or {})
    rows = [
        [
            stage,
            f"{spent:.2f}",
            f"{100 * spent / work:.1f}" if work and stage != WAITING else "",
            *([_least(least.get(stage)), _times(spent, least.get(stage))] if least else []),
        ]
        for stage, spent in seconds.items()
    ]
    for name, together in (("one after the other", one_after_the_other), ("decoder beside model", side_by_side)):
        floor = together(least)
        beside = [_least(floor), _times(together(seconds), floor)] if least else []
        rows.append([f"ideal, {name}", f"{together(seconds):.2f}", "", *beside])
    table = markdown(["stage", "seconds", "% of work", *(["floor", "times the floor"] if least else [])], rows)
    return "\n\n".join([table, *_percentiles(costs), *_below(seconds, least)])


def _percentiles(costs: Sequence[SampleCost]) -> list[str]:
    """Seconds of work on single answers, warm-ups left out, where there are several."""
    found = [cost.seconds_total for cost in timed(costs)]
    if len(found) < 2:
        return []
    at = np.percentile(found, SHARES)
    told = ", ".join(f"{share} % within {value:.2f}" for share, value in zip(SHARES, at, strict=True))
    return [f"seconds of work on each of {len(found)} answers: {told}"]


def _below(seconds: Mapping[str, float], floors: Mapping[str, float]) -> list[str]:
    """A warning where stages are faster than can be: the rate was measured while something else took the machine."""
    below = [stage for stage, spent in seconds.items() if 0 < spent < floors.get(stage, 0.0) and stage not in DECODER]
    if not below:
        return []
    return [
        f"WARNING: {', '.join(below)} took less than the floor, which no run can: the rate of matrix products was "
        "measured too low, as on a machine with other work; repeat this on an idle one"
    ]


def _least(floor: float | None) -> str:
    if floor is None:
        return ""
    return f"{floor:.1e}" if 0 < floor < 0.01 else f"{floor:.3f}"  # a tiny model's floors are microseconds


def _times(spent: float, floor: float | None) -> str:
    return f"{spent / floor:.1f}" if floor and spent else ""
