"""What the ledger costs: the same answers with and without it, in turns, on the embedded model.

    python benchmarks/ledger.py --pairs 12 --out benchmarks/results/ledger.json

"Off" leaves out what only the ledger needs: clocks, closed forms, counting and the record itself. CPU time of the
process is compared, not the wall clock, so that other work on the machine matters less. Where that is too noisy for
differences below 1 %, `--pairs 0` only adds up what is spent inside the ledger's own functions, in `--inside` runs.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import torch

from lmms_kvtp import pipeline
from lmms_kvtp.api import Model, load
from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encode import Encoded, encode
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import finish, prepare
from lmms_kvtp.presets import method_settings
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.load import video_from_frames

METHODS = ("random", "prumerge", "kvtp+prumerge", "kvtp+tome", "visionzip", "simplecluster", "flashvid")
QUESTIONS = 8
REPEATS = 20
NOISE = torch.randint(0, 255, (32, 128, 128, 3), generator=torch.manual_seed(0), dtype=torch.uint8)
VIDEO = video_from_frames(NOISE, "noise")
"""As many frames as the benchmark's, and as large."""


@contextmanager
def _nothing(self: Meter, name: str, flops: int | None = 0) -> Iterator[None]:
    self.seconds.setdefault(name, 0.0)
    yield


NAMES = (
    "lmms_kvtp.pruners.prumerge.PruMerge.flops",
    "lmms_kvtp.pruners.tome.ToMe.flops",
    "lmms_kvtp.pruners.visionzip.VisionZip.flops",
    "lmms_kvtp.pruners.simplecluster.SimpleCluster.flops",
    "lmms_kvtp.pruners.parts.trees.pairs_flops",
    "lmms_kvtp.scorers.kvtp.KVTP.flops",
    "lmms_kvtp.vlms.llava_video.vision_flops",
    "lmms_kvtp.vlms.llava_video.projector_flops",
    "lmms_kvtp.encoders.siglip.Siglip.flops",
)
CLOSED_FORMS = {name: resolve_name(name) for name in NAMES}
"""What counts operations, by name."""


@contextmanager
def without_ledger() -> Iterator[None]:
    """Leave out clocks, closed forms, counting and the record."""
    zero = {"return_value": 0}
    with (
        patch.object(Meter, "stage", _nothing),
        patch.object(Meter, "add", lambda *_: None),
        patch.object(pipeline, "_cost", lambda *_: SampleCost()),
        ExitStack() as stack,
    ):
        for name in CLOSED_FORMS:
            stack.enter_context(patch(name, **zero))
        yield


def inside(model: Model, method: Method) -> float:
    """CPU time of a run that is spent inside the ledger's own functions, in %."""
    spent, stages = [], []
    enter = Meter.stage

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            begin = time.process_time()
            found = function(*given, **named)
            spent.append(time.process_time() - begin)
            return found

        return call

    def counted(self: Meter, name: str, flops: int | None = 0) -> Any:
        stages.append(name)
        return enter(self, name, flops)

    with ExitStack() as stack:
        for name, function in {**CLOSED_FORMS, "lmms_kvtp.pipeline._cost": pipeline._cost}.items():
            stack.enter_context(patch(name, timed(function)))
        stack.enter_context(patch.object(Meter, "stage", counted))
        whole = run(model, method)
    begin, meter = time.process_time(), Meter(model.vlm.device)
    for name in stages * REPEATS:
        with enter(meter, name):
            pass
    return 100 * (sum(spent) + (time.process_time() - begin) / REPEATS) / whole


def run(model: Model, method: Method) -> float:
    """CPU seconds of one video with its questions, whose texts were split before."""
    for reader in (method.encoder, getattr(method.scorer, "text_side", None)):
        if reader:
            reader.forget_texts()
    begin = time.process_time()
    encoded: Encoded = encode(model.vlm, method, VIDEO)
    for number in range(QUESTIONS):
        question = Question(f"What is the color of shape {number}?", stem=f"What is the color of shape {number}?")
        finish(
            model.vlm, method, [prepare(model.vlm, method, [encoded], question)], GenerationOptions(max_new_tokens=4)
        )
    return time.process_time() - begin


def compare(model: Model, name: str, pairs: int, runs: int) -> dict[str, float | str | int]:
    """On and off in turns; which goes first changes from pair to pair."""
    method = model.method(method_settings(name, 0.2, model.vlm.llm.layers))
    run(model, method)
    own = [inside(model, method) for _ in range(runs)]
    row = {"method": name, "inside_percent_median": statistics.median(own), "inside_percent_most": max(own)}
    if not pairs:
        return row
    shares, off = [], []
    for number in range(pairs):
        taken = {}
        for on in (True, False) if number % 2 else (False, True):
            if on:
                taken[on] = run(model, method)
            else:
                with without_ledger():
                    taken[on] = run(model, method)
        shares.append(100 * (taken[True] / taken[False] - 1))
        off.append(taken[False])
    half = statistics.stdev(shares) / len(shares) ** 0.5 * 2 if len(shares) > 1 else float("nan")
    return row | {
        "pairs": pairs,
        "seconds_off": statistics.median(off),
        "percent_median": statistics.median(shares),
        "percent_mean": statistics.mean(shares),
        "percent_half_interval": half,
    }


def main() -> None:
    """Print a line for each method; write them all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--inside", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, rows = load("tiny"), []
    for name in arguments.methods:
        row = compare(model, name, arguments.pairs, arguments.inside)
        rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    if arguments.out:
        load_average = os.getloadavg()[0]
        found = {"torch": torch.__version__, "load_average": load_average, "questions": QUESTIONS, "rows": rows}
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
