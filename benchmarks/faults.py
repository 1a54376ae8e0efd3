"""What is lost where a process is stopped or killed, or a disk is full?

`python benchmarks/faults.py --stops 50 --kills 50` stops or kills the process that decodes ahead at random moments, and
asks for all frames of three videos each time, which must end within `video_seconds` and 10 s. `--run-kills 40` kills
runs of the embedded model, resumes them until all end, and compares the answers with those of a run that nobody killed;
`--sweep-kills` does that to `lmms-kvtp sweep`, and `--build-kills` to `lmms-kvtp skvqa build` on a server, which counts
the calls. `--full FOLDER` fills a small file system, such as a tmpfs of 8 MiB, under seven writers, frees it and lets
them go on. Prints the counts, and fails where an answer, frame or file was lost that need not be.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kills import build_kills, run_kills, sweep_kills

HERE = Path(__file__).parent
BEYOND = 10.0
"""Seconds after video_seconds in which a run must have ended, its own work included."""
LATEST, WORK = 5.0, 1.5
"""Seconds in which a decoder is struck: half of them from its start on, and half from its first frames on."""


def worker_fault(paths: list[str], kind: int, limit: float, dice: random.Random) -> tuple[str, float]:
    """Stop or kill the decoder at a random moment; returns what was lost, and the seconds from there to the end."""
    from lmms_kvtp.video.ahead.ahead import Ahead
    from lmms_kvtp.video.frames import VideoError
    from lmms_kvtp.video.sampling import FrameOptions

    options = FrameOptions(max_frames_num=60, force_sample=True, chunk_size=20)
    ahead = Ahead([(path,) for path in paths], options, 2**20, limit)
    struck: list[float] = []
    at_work = threading.Event()

    def strike() -> None:
        if dice.random() < 0.5:
            time.sleep(dice.uniform(0.0, LATEST))
        else:
            at_work.wait()
            time.sleep(dice.uniform(0.0, WORK))
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
                at_work.set()
                frames += len(chunk.rgb)
                time.sleep(0.2)  # the model's work
            assert frames == 60, frames
        except VideoError as error:
            assert "video_seconds" in str(error) or "exit code" in str(error), error
            lost += 1
    end = time.monotonic()
    at_work.set()
    ahead.close()
    thread.join()
    if not struck:
        return "ended before it was struck", 0.0
    return f"{lost} videos lost", end - struck[0]


def worker_faults(name: str, kind: int, count: int, seed: int, limit: float) -> dict[str, Any]:
    """Strike `count` decoders of runs with `limit` as video_seconds."""
    from soak import write_videos

    found, seconds_after = Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_videos(Path(folder), 3)
        dice = random.Random(f"{seed} {name}")
        while sum(found.values()) < count:
            what, seconds = worker_fault(paths, kind, limit, dice)
            if seconds:
                found[what] += 1
                seconds_after.append(seconds)
    most = 0 if kind == signal.SIGKILL else 1
    longest = sorted(round(seconds, 1) for seconds in seconds_after)
    held = all(int(what.split()[0]) <= most for what in found) and longest[-1] < limit + BEYOND
    told = {"struck": count, "results": dict(found), "video_seconds": limit}
    return {**told, "seconds_to_the_end": {"median": longest[count // 2], "longest": longest[-5:]}, "held": held}


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
    loops: dict[str, Callable[[int, int], dict[str, Any]]] = {
        "stops": lambda count, seed: worker_faults("stop", signal.SIGSTOP, count, seed, given.video_seconds),
        "kills": lambda count, seed: worker_faults("kill", signal.SIGKILL, count, seed, given.video_seconds),
        "run_kills": run_kills,
        "sweep_kills": sweep_kills,
        "build_kills": build_kills,
    }
    for name in loops:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=0)
    parser.add_argument(
        "--video-seconds", type=float, default=10.0, help="of --stops and --kills (default %(default)s)"
    )
    parser.add_argument("--full", type=Path, help="an empty, small file system")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = {name: loop(count, given.seed) for name, loop in loops.items() if (count := getattr(given, name))}
    if given.full:
        places = full_disk(given.full)
        found["full"] = {"places": places, "held": set(places.values()) == {"held"}}
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    return int(not all(part["held"] for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
