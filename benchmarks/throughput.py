"""Questions per second on the embedded benchmark: everything shared and decoded ahead, against one by one.

    python benchmarks/throughput.py --videos 2 --rounds 6 --write

`alone` answers each question as if it were the only one: the video is read, encoded and pruned for it. `together` is a
run as the wrapper makes it: questions on a video share its encoding and, where they may, its prefill, and another
process decodes the next videos. Both go through the wrapper's own `Answerer`, in one process, in turns: some videos
one way, the same videos the other way. The clock of `together` starts when one more video, before the others, has been
answered: libraries are loaded and the decoder is at work; two more follow, so that at the end it still is.
`--write` adds rounds to benchmarks/results/throughput.json, and makes the table of docs/performance.md of that file.

Torch has one thread, so that `together` has one core for the model and one for the decoder, and `alone` one for all it
does, one thing after the other. `cpu_ratio` compares CPU seconds of this process alone: on two idle cores it is what
the clock says as long as the decoder keeps up, and other work on the machine disturbs it less.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmms_kvtp.bench.waterfall import DECODER
from lmms_kvtp.cost.sample import SHARED, SampleCost
from lmms_kvtp.embedded import cache
from lmms_kvtp.embedded.questions import ask
from lmms_kvtp.embedded.script import write_script
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.presets import method_settings
from lmms_kvtp.rendering import markdown, write_between
from lmms_kvtp.run.answerer import Answerer, Lane
from lmms_kvtp.run.asks import Ask, read_question
from lmms_kvtp.run.build import Built, build
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import Arguments, parse_arguments
from lmms_kvtp.types import GenerationOptions

RESULTS = Path(__file__).parent / "results" / "throughput.json"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
METHODS = ("kvtp+random", "kvtp+prumerge")
TARGETS = {3: 2.2, 6: 4.0}
"""Least ratio, by questions on a video."""
BEHIND = 2
"""Videos that are announced to the decoder and never answered."""


@dataclass(frozen=True)
class Way:
    """One pass over some videos."""

    texts: list[str]
    costs: list[SampleCost]
    seconds: float
    """On the clock."""
    cpu_seconds: float
    """CPU seconds of all threads of this process, without the one that decodes."""


def questions(videos: Sequence[int], per_video: int) -> list[list[Ask]]:
    """The first questions that the generator asks about each video, as the wrapper would read them."""
    asked = []
    for seed in videos:
        script, path = write_script(seed, "test"), str(cache.video("test", seed))
        pool = ask(script)[:per_video]
        if len(pool) < per_video:
            raise ValueError(f"video {seed} has {len(pool)} questions, {per_video} are wanted; leave it out")
        documents = [{"question": question.text, "options": list(question.options)} for question in pool]
        read = [
            read_question(question.prompt, document, f"{script.key}/{number}")
            for number, (question, document) in enumerate(zip(pool, documents, strict=True))
        ]
        options = GenerationOptions(max_new_tokens=16)
        asked.append([Ask("throughput", "", question, (path,), lambda p=path: [p], options) for question in read])
    return asked


def alone(arguments: Arguments, built: Built, asked: Sequence[Sequence[Ask]]) -> Way:
    """Every question with a fresh start."""
    answers: list[Answer] = []
    begin = now()
    for question in [question for of_video in asked for question in of_video]:
        answers += Answerer([lane_of(arguments, built)], arguments.frames).answer([question])
    return _way(answers, begin)


def together(arguments: Arguments, built: Built, asked: Sequence[Sequence[Ask]]) -> Way:
    """The wrapper's way; the first video is not timed, and the last ones are not answered."""
    everything = dict(enumerate(question for of_video in asked for question in of_video))
    timed = range(len(asked[0]), len(asked[0]) + sum(map(len, asked[1 : len(asked) - BEHIND])))
    made = Answerer([lane_of(arguments, built)], arguments.frames).answer_all(everything)
    begin, answers = now(), list[Answer]()
    for _, number, answer in made:
        if number in timed:
            answers.append(answer)
        if number == timed[-1]:
            break
        if number < timed[0]:
            begin = now()
    made.close()
    return _way(answers, begin)


def lane_of(arguments: Arguments, built: Built) -> Lane:
    """What answers, without a journal."""
    return Lane(built, arguments.run, Session(built.setup, None, None))


def now() -> tuple[float, float]:
    """Seconds on the clock, and of this process on a CPU."""
    return time.perf_counter(), time.process_time()


def _way(answers: Sequence[Answer], begin: tuple[float, float]) -> Way:
    seconds, cpu_seconds = (after - before for after, before in zip(now(), begin, strict=True))
    return Way([answer.text for answer in answers], [answer.cost for answer in answers], seconds, cpu_seconds)


def compare(method: str, per_video: int, videos: int, settings: dict[str, str]) -> dict[str, Any]:
    """Both ways on the same videos, with the ceilings that follow from the stages of the first.

    Raises:
        AssertionError: an answer differs.
    """
    arguments = parse_arguments({"pretrained": "tiny", **method_settings(method, 0.2), **settings})
    built = build(arguments, torch.device("cpu"), {})
    usable = [seed for seed in range(160) if len(ask(write_script(seed, "test"))) >= per_video]
    asked = questions(usable[: 1 + videos + BEHIND], per_video)
    timed = asked[1 : 1 + videos]
    alone(arguments, built, [asked[0][:1]])  # warm
    one = alone(arguments, built, timed)
    built.method.encoder.forget_texts()
    all_at_once = together(arguments, built, asked)
    assert one.texts == all_at_once.texts, "answers differ"
    return {
        "method": method,
        "questions_per_video": per_video,
        "videos": videos,
        "questions_per_second": {
            "alone": len(one.texts) / one.seconds,
            "together": len(one.texts) / all_at_once.seconds,
        },
        "ratio": one.seconds / all_at_once.seconds,
        "cpu_ratio": one.cpu_seconds / all_at_once.cpu_seconds,
        "cpu_seconds": {"alone": one.cpu_seconds, "together": all_at_once.cpu_seconds},
        **ceilings(one, per_video),
        "milliseconds": {"alone": _stages(one), "together": _stages(all_at_once)},
    }


def ceilings(one: Way, per_video: int) -> dict[str, float]:
    """Ratios if the shared stages ran once for each video, and if decoding then cost nothing at all."""
    spent = [(_sum(cost, SHARED), _sum(cost, DECODER)) for cost in one.costs]
    shared, decoder = (sum(column) / len(spent) for column in zip(*spent, strict=True))
    own = one.seconds / len(spent) - shared  # what no stage holds is spent on each question, too
    return {
        "ceiling_sharing": per_video * (own + shared) / (shared + per_video * own),
        "ceiling_sharing_and_decoding_ahead": per_video * (own + shared) / (shared - decoder + per_video * own),
    }


def _sum(cost: SampleCost, stages: Sequence[str]) -> float:
    return sum(cost.seconds.get(stage, 0.0) for stage in stages)


def _stages(way: Way) -> dict[str, float]:
    """Seconds of the average answer, with shared stages divided among the questions."""
    names = dict.fromkeys(stage for cost in way.costs for stage in cost.seconds)
    total = {
        stage: sum(
            cost.seconds.get(stage, 0.0) / (cost.questions_on_video if stage in (*SHARED, "waiting") else 1)
            for cost in way.costs
        )
        for stage in names
    }
    return {stage: round(1000 * seconds / len(way.costs), 2) for stage, seconds in total.items()}


def main() -> None:
    """Add a round, and print the ratios so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--questions", nargs="+", type=int, default=list(TARGETS))
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--model_args", nargs="*", default=["decode_ahead_mib=32"], metavar="NAME=VALUE")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="add the rounds to results/throughput.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = dict(pair.split("=", 1) for pair in arguments.model_args)
    for _ in range(arguments.rounds):
        rows = [
            compare(method, per_video, arguments.videos, settings)
            for method in arguments.methods
            for per_video in arguments.questions
        ]
        for row in rows:
            sys.stdout.write(json.dumps(row) + "\n")
        if arguments.write:
            told = {"threads": arguments.threads, "model_args": settings}
            keep(RESULTS, rows, told)
            write_between(PAGE, table(json.loads(RESULTS.read_text(encoding="utf-8"))), "throughput")


def table(held: dict[str, Any]) -> str:
    """For people: medians, and lowest to highest."""
    head = ["method", "questions on a video", "clock", "CPU seconds of the process"]
    lines = [
        [
            row["method"],
            str(row["questions_per_video"]),
            "{:.2f}x ({:.2f} to {:.2f})".format(row["ratio"], *row["range"]),
            "{:.2f}x ({:.2f} to {:.2f})".format(row["cpu_ratio"], *row["cpu_range"]),
            f"{row['ceiling_sharing']:.2f}x, {row['ceiling_sharing_and_decoding_ahead']:.2f}x",
            f"{row['target']}x",
        ]
        for row in held["summary"]
    ]
    rows = markdown([*head, "ceiling: sharing, and decoding for nothing", "target"], lines)
    loads = ", ".join(f"{past['load_average']:.1f}" for past in held["rounds"])
    return f"{rows}\n\nLoad average at the end of each round, on {held['machine']['cores']} cores: {loads}."


def keep(path: Path, rows: Sequence[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Add a round to the file, and write the medians of all rounds."""
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rounds": []}
    held["machine"] = {"cores": os.cpu_count(), "torch": torch.__version__, **settings}
    held["rounds"].append({"load_average": os.getloadavg()[0], "rows": list(rows)})
    held["summary"] = []
    every = [row for past in held["rounds"] for row in past["rows"]]
    for method, per_video in dict.fromkeys((row["method"], row["questions_per_video"]) for row in every):
        own = [row for row in every if (row["method"], row["questions_per_video"]) == (method, per_video)]
        ratios = [row["ratio"] for row in own]
        held["summary"].append(
            {
                "method": method,
                "questions_per_video": per_video,
                "rounds": len(own),
                "ratio": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
                "cpu_ratio": statistics.median(row["cpu_ratio"] for row in own),
                "cpu_range": [min(row["cpu_ratio"] for row in own), max(row["cpu_ratio"] for row in own)],
                "target": TARGETS.get(per_video),
                **{name: statistics.median(row[name] for row in own) for name in own[0] if name.startswith("ceiling")},
                "alone": statistics.median(row["questions_per_second"]["alone"] for row in own),
                "together": statistics.median(row["questions_per_second"]["together"] for row in own),
            }
        )
    path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
