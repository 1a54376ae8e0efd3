"""Runs, sweeps and builds that are killed again and again until each ends, against one of each that nobody killed.

`benchmarks/faults.py` calls it. Each is a process in a session of its own, forked from one that has loaded the
libraries, and is killed with all its children: mostly when it has given some more answers, sometimes at any moment. A
new Python would load its libraries first, in seconds in which nothing is written.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
QUESTIONS = 40
"""Questions of a run, on half as many videos."""
LIMIT = 20
"""Questions of each of a sweep's two cells."""
VIDEOS = 10
"""Videos of a build: with three clips and two questions each."""
IN_FLIGHT = 2
"""Calls of a build that are made at a time."""
AT_ANY_MOMENT = 0.2
"""Share of the kills that do not wait for answers."""
Work = Callable[[Path], object]


def alone(work: Work, folder: Path) -> None:
    """Do some work in a session of its own; what is printed goes to a file."""
    os.setsid()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(int(work(folder) or 0))  # type: ignore[call-overload]


def kill_until_done(
    context: ForkServerContext, work: Work, folder: Path, answered: Callable[[Path], int], dice: random.Random | None
) -> int:
    """Start a piece of work again and again, and kill it and its children, until it ends by itself; returns the kills.

    Without dice nothing is killed.
    """
    folder.mkdir(exist_ok=True)
    kills = 0
    while True:
        wanted = answered(folder) + (dice.randint(1, 8) if dice else sys.maxsize)
        soon = dice is not None and dice.random() < AT_ANY_MOMENT
        latest = time.monotonic() + (dice.uniform(0.0, 10.0) if dice and soon else float("inf"))
        process = context.Process(target=alone, args=(work, folder))
        process.start()
        while process.is_alive() and answered(folder) < wanted and time.monotonic() < latest:
            time.sleep(0.02)
        process.join(dice.uniform(0.0, 0.2) if dice else None)
        if not process.is_alive():
            assert process.exitcode == 0, (folder / "log").read_text(errors="replace")[-3000:]
            return kills
        assert process.pid
        for end in (os.killpg, os.kill):  # of its session; a process that is just starting has none yet
            with suppress(ProcessLookupError):
                end(process.pid, signal.SIGKILL)
        process.join()
        kills += 1


def journals(folder: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Whole answers of each journal, oldest first, by the folder of the journals."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for path in sorted(folder.rglob("*_journal_rank*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
        found.setdefault(str(path.parent.relative_to(folder)), []).append([json.loads(line) for line in lines])
    return found


def answered_in(folder: Path) -> int:
    """Count the answers in all journals, those that were taken over once."""
    return sum(len({line["key"] for lines in each for line in lines}) for each in journals(folder).values())


def wrong_in(folder: Path, questions: int) -> int:
    """Count journals with an answer twice, or with one that was made again, and folders that lack answers."""
    wrong = 0
    for each in journals(folder).values():
        earlier: dict[str, dict[str, Any]] = {}
        for lines in each:
            own = {line["key"]: line for line in lines}
            wrong += len(own) < len(lines)  # twice in one
            wrong += any(
                own[key] != earlier[key] for key in own.keys() & earlier.keys()
            )  # another text, or other seconds
            earlier |= own
        wrong += len(earlier) != questions
    return wrong


def run(folder: Path) -> None:
    """Answer QUESTIONS questions on half as many videos, from the journals in `folder` on, and write the texts down."""
    import torch
    from lmms_eval.api.instance import Instance

    from lmms_kvtp.files import write_json
    from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp

    torch.set_num_threads(1)
    paths = sorted(str(path) for path in (folder.parent / "videos").iterdir())
    settings: dict[str, Any] = {"pretrained": "tiny", "allow_toy": True, "device": "cpu", "max_frames_num": 4}
    settings |= {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "decode_ahead_mib": 16}
    if any((folder / "journals").glob("*.jsonl")):
        settings["resume"] = str(folder / "journals")
    model = LlavaVideoKvtp(**settings, journal=str(folder / "journals"))
    model.task_dict["faults"] = {"test": [{"path": paths[number // 2]} for number in range(QUESTIONS)]}
    requests = []
    for number in range(QUESTIONS):
        prompt = f"What is thing {number}?\nA. red\nB. blue"
        told = (prompt, {"max_new_tokens": 4}, lambda doc: [doc["path"]], number, "faults", "test")
        about = {"task": "faults", "doc_id": number, "repeats": 1, "version": 1}
        requests.append(Instance("generate_until", told, 0, about))
    write_json(folder / "texts.json", [answer.text for answer in model.generate_until(requests)])


def sweep(folder: Path) -> int:
    """Sweep over two cells in `folder`."""
    from lmms_kvtp.__main__ import main

    methods = ["--methods", "full,random", "--ratios", "0.2", "--tasks", "skvqa_synth_quick", "--limit", str(LIMIT)]
    return main(["sweep", *methods, "--out", str(folder)])


def build(folder: Path) -> int:
    """Build an index in `folder` with the help of a server, whose address lies beside it."""
    from lmms_kvtp.__main__ import main

    [annotations] = (folder.parent / "videomme").glob("*.parquet")
    command = ["skvqa", "build", "--dataset", "videomme", "--annotations", str(annotations), "--out", str(folder)]
    command += ["--videos", str(folder.parent / "hf" / "videomme"), "--concurrency", str(IN_FLIGHT)]
    for part in ("captioner", "scorer", "refiner"):
        command += [f"--{part}", "endpoint:good"]
    return main([*command, "--endpoint", (folder.parent / "url").read_text()])


def run_kills(count: int, seed: int) -> dict[str, Any]:
    """Kill runs until `count` have been killed."""
    from soak import write_videos

    def texts(folder: Path) -> Any:
        return json.loads((folder / "texts.json").read_text())

    with tempfile.TemporaryDirectory() as place:
        write_videos(Path(place) / "videos", QUESTIONS // 2)
        found = _kills(count, f"{seed} run", Path(place), run, texts, answered_in, QUESTIONS)
    return {**found, "questions_of_each": QUESTIONS}


def sweep_kills(count: int, seed: int) -> dict[str, Any]:
    """Kill sweeps with all their processes, and compare what they answered with one that nobody killed."""
    from lmms_kvtp.leaderboard.runs import read_runs

    def rows(folder: Path) -> list[list[str]]:
        cells = sorted(path.parent.name for path in folder.glob("*/journal"))
        return [[cell, *(str(a.score) for run in read_runs(folder / cell) for a in run.answers)] for cell in cells]

    with tempfile.TemporaryDirectory() as place:
        found = _kills(count, f"{seed} sweep", Path(place), sweep, rows, answered_in, LIMIT)
    return {**found, "questions_of_each": 2 * LIMIT}


def build_kills(count: int, seed: int) -> dict[str, Any]:
    """Kill builds of an index; of the calls, only those in flight may be made again."""
    sys.path.insert(0, str(TESTS))
    from helpers.skvqa_lookalikes import write_dataset
    from helpers.stub import Stub

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_dataset(folder, "videomme", videos=VIDEOS)
        stub = Stub(folder / "requests", delay=0.05)
        (folder / "url").write_text(stub.url)
        try:
            found = _kills(
                count, f"{seed} build", folder, build,
                lambda out: (out / "videomme.jsonl").read_bytes(), lambda _: len(stub.requests()), 0,
            )  # fmt: skip
            asked = len(stub.requests())
        finally:
            stub.stop()
    needed = VIDEOS * (3 + 2 * 2) * (1 + found["ended"])
    again = asked - needed
    held = found["held"] and 0 <= again <= IN_FLIGHT * found["killed"]
    return {**found, "calls_needed": needed, "calls_made_again": again, "in_flight": IN_FLIGHT, "held": held}


def _kills(
    count: int, seed: str, place: Path, work: Work, made: Callable[[Path], Any], answered: Callable[[Path], int],
    questions: int,
) -> dict[str, Any]:  # fmt: skip
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kills", "lmms_kvtp.model_wrappers.llava_video", "lmms_kvtp.commands.sweep"])
    kills, ended, wrong, start = 0, 0, 0, time.monotonic()
    kill_until_done(context, work, place / "whole", answered, None)
    while kills < count:
        folder = place / str(ended)
        kills += kill_until_done(context, work, folder, answered, random.Random(f"{seed} {ended}"))
        wrong += (made(folder) != made(place / "whole")) + wrong_in(folder, questions)
        ended += 1
    seconds = round(time.monotonic() - start)
    return {"killed": kills, "ended": ended, "lost_or_wrong": wrong, "seconds": seconds, "held": wrong == 0}
