"""What is lost where a process is stopped or killed, or a disk is full?

`python benchmarks/faults.py --stops 50 --kills 50` stops or kills the process that decodes ahead at random moments, and
asks for all frames of three videos each time. `--run-kills 40` kills runs of the embedded model, resumes them until all
end, and compares the answers with those of a run that nobody killed. `--sweep-kills 10` does that to `lmms-kvtp sweep`
with all its processes. `--full FOLDER` fills a small file system, such as a tmpfs of 8 MiB, under seven writers, frees
it and lets them go on. Prints the counts, and fails where an answer, frame or file was lost that need not be.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SECONDS = 30.0
"""video_seconds of the runs whose decoders are stopped."""
BEYOND = 10.0
"""Seconds after video_seconds in which a run must have gone on."""
QUESTIONS = 40


def worker_fault(paths: list[str], kind: int, dice: random.Random) -> tuple[str, float]:
    """Stop or kill the decoder at a random moment; returns what was lost, and the seconds from there to the end."""
    from lmms_kvtp.video.ahead.ahead import Ahead
    from lmms_kvtp.video.frames import VideoError
    from lmms_kvtp.video.sampling import FrameOptions

    options = FrameOptions(max_frames_num=60, force_sample=True, chunk_size=20)
    ahead = Ahead([(path,) for path in paths], options, 2**20, SECONDS)
    struck: list[float] = []

    def strike() -> None:
        time.sleep(dice.uniform(0.0, 6.0))
        process = ahead.feeds[0].process
        if process and process.poll() is None:
            struck.append(time.monotonic())
            with suppress(ProcessLookupError):
                os.kill(process.pid, kind)

    thread = threading.Thread(target=strike)
    thread.start()
    lost = 0
    for path in paths:
        try:
            [video] = ahead.videos((path,))
            frames = 0
            for chunk in video.chunks():
                frames += len(chunk.rgb)
                time.sleep(0.2)  # the model's work
            assert frames == 60, frames
        except VideoError as error:
            assert "video_seconds" in str(error) or "exit code" in str(error), error
            lost += 1
    end = time.monotonic()
    ahead.close()
    thread.join()
    if not struck:
        return "ended before it was struck", 0.0
    return f"{lost} videos lost", end - struck[0]


def worker_faults(name: str, kind: int, count: int, seed: int) -> dict[str, Any]:
    """Strike `count` decoders."""
    from soak import write_videos

    found, longest = Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        paths = write_videos(Path(folder), 3)
        dice = random.Random(f"{seed} {name}")
        while sum(found.values()) < count:
            what, seconds = worker_fault(paths, kind, dice)
            if seconds:
                found[what] += 1
                longest = max(longest, seconds)
    most = 0 if kind == signal.SIGKILL else 1
    held = all(int(what.split()[0]) <= most for what in found) and longest < 3 * 60 * 0.2 / 20 + SECONDS + BEYOND + 6
    return {"struck": count, "results": dict(found), "longest_seconds_to_the_end": round(longest, 1), "held": held}


def serve_run(folder: Path) -> None:
    """Answer QUESTIONS questions on 20 videos, from the journals in `folder` on, and write the texts down."""
    import torch
    from lmms_eval.api.instance import Instance

    from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp

    torch.set_num_threads(1)
    paths = sorted(str(path) for path in (folder / "videos").iterdir())
    settings: dict[str, Any] = {"pretrained": "tiny", "allow_toy": True, "device": "cpu", "max_frames_num": 4}
    settings |= {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "decode_ahead_mib": 16}
    journals = folder / "journals"
    if any(journals.glob("*.jsonl")):
        settings["resume"] = str(journals)
    model = LlavaVideoKvtp(**settings, journal=str(journals))
    model.task_dict["faults"] = {"test": [{"path": paths[number // 2]} for number in range(QUESTIONS)]}
    requests = []
    for number in range(QUESTIONS):
        prompt = f"What is thing {number}?\nA. red\nB. blue"
        told = (prompt, {"max_new_tokens": 4}, lambda doc: [doc["path"]], number, "faults", "test")
        about = {"task": "faults", "doc_id": number, "repeats": 1, "version": 1}
        requests.append(Instance("generate_until", told, 0, about))
    texts = [answer.text for answer in model.generate_until(requests)]
    (folder / "texts.json").write_text(json.dumps(texts))


def answered_in(folder: Path) -> int:
    """Count the answers in all journals, those that were taken over once."""
    return len({key for keys in keys_in(folder) for key in keys})


def kill_until_done(command: list[str], folder: Path, done: Callable[[], bool], dice: random.Random) -> int:
    """Start a command again and again, and kill it and its children when it has given some more answers."""
    kills = 0
    while not done():
        wanted = answered_in(folder) + dice.randint(1, 12)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, start_new_session=True, **quiet) as process:  # type: ignore[call-overload]
            while process.poll() is None and answered_in(folder) < wanted:
                time.sleep(0.05)
            with suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0.0, 0.2))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
    return kills


def keys_in(folder: Path) -> list[list[str]]:
    """Keys of the answers in each whole line of each journal, oldest first."""
    found = []
    for path in sorted(folder.rglob("*_journal_rank*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
        found.append([json.loads(line)["key"] for line in lines])
    return found


def run_kills(count: int, seed: int) -> dict[str, Any]:
    """Kill runs until `count` have been killed."""
    from soak import write_videos

    kills, runs, wrong = 0, 0, 0
    with tempfile.TemporaryDirectory() as place:
        reference = Path(place) / "reference"
        write_videos(reference / "videos", QUESTIONS // 2)
        subprocess.run([sys.executable, __file__, "--serve-run", str(reference)], check=True, capture_output=True)
        texts = (reference / "texts.json").read_text()
        while kills < count:
            folder = Path(place) / str(runs)
            folder.mkdir()
            (folder / "videos").symlink_to(reference / "videos")
            command = [sys.executable, __file__, "--serve-run", str(folder)]
            dice = random.Random(f"{seed} run {runs}")
            kills += kill_until_done(command, folder, (folder / "texts.json").exists, dice)
            journals = keys_in(folder)
            wrong += (folder / "texts.json").read_text() != texts
            wrong += any(len(set(keys)) < len(keys) for keys in journals) + (len(set(journals[-1])) != QUESTIONS)
            earlier: set[str] = set()
            for keys in journals[:-1]:  # what was whole in one is taken over by the next, before new answers
                wrong += bool(earlier - set(keys)) and bool(set(keys) - earlier)
                earlier |= set(keys)
            runs += 1
    return {"killed": kills, "runs": runs, "questions_of_each": QUESTIONS, "lost_or_wrong": wrong, "held": wrong == 0}


def sweep_kills(count: int, seed: int) -> dict[str, Any]:
    """Kill sweeps with all their processes, and compare their tables with one that nobody killed."""
    kills, runs, wrong = 0, 0, 0

    def table(folder: Path) -> list[list[str]]:
        from lmms_kvtp.leaderboard.runs import read_runs

        cells = sorted(path.parent.name for path in folder.glob("*/journal"))
        return [[cell, *(str(a.score) for run in read_runs(folder / cell) for a in run.answers)] for cell in cells]

    with tempfile.TemporaryDirectory() as place:
        sweep = [sys.executable, "-m", "lmms_kvtp", "sweep", "--methods", "full,random", "--ratios", "0.2"]
        sweep += ["--tasks", "skvqa_synth_quick", "--limit", "8", "--out"]
        subprocess.run([*sweep, f"{place}/reference"], check=True, capture_output=True)
        while kills < count:
            folder = Path(place) / str(runs)
            command = [*sweep, str(folder)]
            kills += kill_until_done(
                command, folder, lambda folder=folder: len(list(folder.rglob("*_results.json"))) == 2,
                random.Random(f"{seed} sweep {runs}"),
            )  # fmt: skip
            subprocess.run(command, check=True, capture_output=True)
            wrong += table(folder) != table(Path(place) / "reference")
            runs += 1
    return {"killed": kills, "sweeps": runs, "lost_or_wrong": wrong, "held": wrong == 0}


def full_disk(folder: Path) -> dict[str, str]:
    """Fill a small file system under seven writers; says of each what it did."""
    import logging

    import torch

    sys.path.insert(0, str(HERE.parent / "tests"))
    from helpers.skvqa_entries import entry

    from lmms_kvtp.cost.sample import SampleCost
    from lmms_kvtp.files import write_json, write_whole
    from lmms_kvtp.pipeline import Answer
    from lmms_kvtp.run.journal import Journal, read
    from lmms_kvtp.scorers.parts.fusion import FusionHead
    from lmms_kvtp.skvqa.index import read_entries, write_entries
    from lmms_kvtp.skvqa_build.store import Store
    from lmms_kvtp.video.cache import FrameCache

    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lmms_kvtp").addHandler(handler)
    journal, store = Journal.create(folder / "journal", "now", 0, {}), Store(folder / "calls.sqlite")
    entries = [entry(f"{number}") for number in range(60)]
    cache = FrameCache(folder / "cache", 2**30)
    answered, stored = 0, 0

    def answer() -> None:
        nonlocal answered
        journal.write(str(answered), "d", Answer("x" * 3000, SampleCost()))
        answered += 1

    def store_call() -> None:
        nonlocal stored
        store.put(str(stored), "x" * 3000, "caption")
        stored += 1

    writers: dict[str, tuple[Callable[[], object], Callable[[], bool]]] = {
        "journal": (answer, lambda: len(read(journal.path).answers) == answered),
        "store of a build": (store_call, lambda: all(store.get(str(number)) for number in range(stored))),
        "index": (
            lambda: write_entries(folder / "videomme.jsonl", entries),
            lambda: not (folder / "videomme.jsonl").exists() or len(read_entries(folder / "videomme.jsonl")) == 60,
        ),
        "page": (
            lambda: write_whole(folder / "index.html", "x" * 70_000),
            lambda: not (folder / "index.html").exists() or (folder / "index.html").stat().st_size == 70_000,
        ),
        "stored result": (
            lambda: write_json(folder / "row.json", ["x" * 100] * 500),
            lambda: not (folder / "row.json").exists() or len(json.loads((folder / "row.json").read_text())) == 500,
        ),
        "fusion head": (
            lambda: FusionHead(offsets=torch.zeros(20_000)).save(folder),
            lambda: not list(folder.glob(".*.part")),
        ),
        "frame cache": (
            lambda: cache.put("a.frames", torch.zeros(4, 100, 100, 3, dtype=torch.uint8)),
            lambda: not list((folder / "cache").glob("*.part")),
        ),
    }
    told: dict[str, str] = {}
    for name, (write, whole) in writers.items():
        if name in ("journal", "store of a build"):
            for _ in range(3):
                write()
        ballast, message = folder / "ballast", ""
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1024))
        for _ in range(50):
            try:
                write()
            except OSError as error:
                message = str(error)
                break
        message = message or "; ".join(warnings)
        intact = whole()
        ballast.unlink()
        if name != "frame cache":
            for _ in range(3):
                write()
        ways_on = str(folder) in message and ("free" in message)
        told[name] = "held" if intact and whole() and ways_on else f"lost or unsaid: {message}"
    return told


def main() -> int:
    """Print what was found; 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("stops", "kills", "run-kills", "sweep-kills"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--full", type=Path, help="an empty, small file system")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve-run", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve_run:
        serve_run(given.serve_run)
        return 0
    found: dict[str, Any] = {}
    if given.stops:
        found["stopped decoders"] = worker_faults("stop", signal.SIGSTOP, given.stops, given.seed)
    if given.kills:
        found["killed decoders"] = worker_faults("kill", signal.SIGKILL, given.kills, given.seed)
    if given.run_kills:
        found["killed runs"] = run_kills(given.run_kills, given.seed)
    if given.sweep_kills:
        found["killed sweeps"] = sweep_kills(given.sweep_kills, given.seed)
    if given.full:
        places = full_disk(given.full)
        found["full disk"] = {"places": places, "held": set(places.values()) == {"held"}}
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    return int(not all(part["held"] for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
