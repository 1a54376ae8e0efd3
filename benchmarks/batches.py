"""Questions per second against the size of a batch, on one video and on as many videos as questions, full and pruned.

    python benchmarks/batches.py --output benchmarks/results/batches.json

The wrapper's own `Answerer` answers the same number of questions in batches of 1, 2, 4, ...: `one video` asks all of
them about one video, which is encoded once; `each its own` about a video each, so that a batch is of different videos,
as of several users at once. Videos are noise whose pixels lie on the device, so nothing is decoded. All tokens and the
method take turns, every other round in reverse, after a round that does not count; answers have `--tokens` tokens.
Ratios are of a round's two halves; a method pays where even the lowest of them is above 1, and does not where the
highest is below.

On a GPU: `--model llava-video-7b --frames 32 --dtype bfloat16 --device cuda` has random weights of that size.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lmms_kvtp.api import load
from lmms_kvtp.bench.first_token import PixelVideo, random_pixels
from lmms_kvtp.bench.random_model import random_llava, random_parts
from lmms_kvtp.commands.arguments import at_least_one
from lmms_kvtp.forecast.models import find_spec
from lmms_kvtp.method import KVTP, Method, build_method
from lmms_kvtp.presets import FULL, settings_of
from lmms_kvtp.questions import Question
from lmms_kvtp.rendering import markdown
from lmms_kvtp.run.answerer import Answerer, unrecorded
from lmms_kvtp.run.asks import Ask, ask_about
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.decoding import now
from lmms_kvtp.vlms.llava_video import LoadOptions

WAYS = ("one video", "each its own")


@dataclass(frozen=True)
class Desk:
    """What answers, and the videos that are asked about."""

    vlm: VideoVLM
    methods: Mapping[str, Method]
    videos: Sequence[PixelVideo]


def desk(arguments: argparse.Namespace, scratch: Path) -> Desk:
    """Load the embedded model, or draw one of another size with a predictor on its own tower."""
    if arguments.model == "tiny":
        model = load("tiny", device=arguments.device or "cpu")
        pruned = model.method(settings_of(arguments.method, arguments.keep_ratio))
        vlm: VideoVLM = model.vlm
        specs = [vlm.spec(arguments.frames), pruned.encoder.pixel_spec]  # type: ignore[attr-defined]
    else:
        spec = find_spec(arguments.model)
        vlm = random_llava(spec, LoadOptions(dtype=arguments.dtype, device=arguments.device))
        parts = random_parts("shared", spec, scratch, vlm)
        pruned = build_method({**settings_of(arguments.method, arguments.keep_ratio), **parts.settings}, KVTP)
        specs = [spec.spec(0)]
    methods = {FULL: build_method(settings_of(FULL, 1.0), KVTP), arguments.method: pruned}
    videos = [
        replace(random_pixels(specs, arguments.frames, vlm.device, vlm.dtype), key=f"noise {number}")  # type: ignore[arg-type]
        for number in range(arguments.questions)
    ]
    return Desk(vlm, methods, videos)


def asked(desk: Desk, way: str, tokens: int) -> dict[int, Ask]:
    """All questions, each another one."""
    options = GenerationOptions(max_new_tokens=tokens)
    videos = desk.videos if way == WAYS[1] else [desk.videos[0]] * len(desk.videos)
    texts = [f"Which of the {number + 2} things is next?" for number in range(len(videos))]
    pairs = zip(videos, texts, strict=True)
    return {number: ask_about([video], Question(text), options) for number, (video, text) in enumerate(pairs)}


def seconds(desk: Desk, name: str, way: str, size: int, tokens: int) -> float:
    """Answer all questions once; without a shared prefill, which only single questions could have."""
    run = RunOptions(batch_size=size, share_prefix=False, decode_ahead_mib=0, timing="off")
    answerer = Answerer([unrecorded(desk.vlm, desk.methods[name], run)], desk.vlm.frames)
    desk.methods[name].encoder.forget_texts()
    begin, made = now(desk.vlm.device), list(answerer.answer_all(asked(desk, way, tokens)))
    assert len(made) == len(desk.videos) and not any(answer.cost.smaller_batch for *_, answer in made)
    return now(desk.vlm.device) - begin


def rounds(desk: Desk, arguments: argparse.Namespace) -> Iterator[dict[tuple[str, str, int], float]]:
    """One pass over all that is compared after another; the first loads and does not count."""
    begin = time.perf_counter()
    every = [(name, way, size) for way in WAYS for size in arguments.sizes for name in desk.methods]
    for number in range(1 + arguments.rounds):
        turn = every[:: -1 if number % 2 else 1]
        found = {each: seconds(desk, *each, arguments.tokens) for each in turn}
        if number:
            yield found
        if time.perf_counter() - begin > arguments.minutes * 60:
            return


def describe(
    found: Sequence[Mapping[tuple[str, str, int], float]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each way and size."""
    rows = []
    for way in WAYS:
        for size in arguments.sizes:
            full, pruned = ([one[name, way, size] for one in found] for name in (FULL, arguments.method))
            ratios = [before / after for before, after in zip(full, pruned, strict=True)]
            rate = {
                name: [arguments.questions / spent for spent in part]
                for name, part in ((FULL, full), (arguments.method, pruned))
            }
            pays = "yes" if min(ratios) > 1 else "no" if max(ratios) < 1 else "cannot be told"
            rows.append({"videos": way, "batch": size, "questions_per_second": rate, "ratios": ratios, "pays": pays})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people: medians, and lowest to highest."""
    names = list(rows[0]["questions_per_second"])
    head = ["videos", "questions at once", *(f"{name}, questions/s" for name in names), "ratio", "pruning pays"]
    lines = [
        [
            row["videos"],
            str(row["batch"]),
            *(spread(row["questions_per_second"][name]) for name in names),
            spread(row["ratios"]),
            row["pays"],
        ]
        for row in rows
    ]
    return markdown(head, lines)


def spread(values: Sequence[float]) -> str:
    """`2.1 (1.9 to 2.3)`."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Measure, print, and write a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--method", default="kvtp+prumerge")
    parser.add_argument("--keep_ratio", type=float, default=0.2)
    parser.add_argument("--frames", type=at_least_one, default=32)
    parser.add_argument("--questions", type=at_least_one, default=16)
    parser.add_argument("--sizes", type=at_least_one, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", type=at_least_one, default=8)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no other round after so long")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of torch (default 1)")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        there = desk(arguments, Path(scratch))
        loads = [os.getloadavg()[0]]
        found = []
        for one in rounds(there, arguments):
            found.append(one)
            loads.append(os.getloadavg()[0])
    rows = describe(found, arguments)
    told = f"{len(found)} rounds, load average {min(loads):.1f} to {max(loads):.1f} on {os.cpu_count()} cores"
    sys.stdout.write(f"{table(rows)}\n\n{there.vlm.name}, {arguments.frames} frames, {there.vlm.device}; {told}.\n")
    if arguments.output:
        settings = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
        held = {"settings": settings, "torch": torch.__version__, "load_average": loads, "rows": rows}
        arguments.output.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
