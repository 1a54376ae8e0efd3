"""SparseKV-QA at size: index steps on 50,000 questions, and throughput against a stub server by concurrency.

Run from the checkout: python benchmarks/skvqa.py [--questions 50000] [--requests 48] [--out FILE]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmms_kvtp.skvqa.entry import Entry, make_entry
from lmms_kvtp.skvqa.index import write_entries
from lmms_kvtp.skvqa_build.ask import ask_all, read_scores
from lmms_kvtp.skvqa_build.chat import ChatRequest
from lmms_kvtp.skvqa_build.endpoint import Endpoint
from lmms_kvtp.skvqa_build.store import Store

DELAY = 1.0
"""Seconds that the stub takes for an answer."""
STUB = Path(__file__).parents[1] / "tests" / "helpers" / "stub_server.py"
LIMITS = (1, 4, 16)


def entries(count: int) -> Iterator[Entry]:
    """Questions on videos of 16 clips, with scores of 0 to 5 and texts of usual length."""
    draw = random.Random(0)
    for number in range(count):
        yield make_entry(
            dataset="activitynetqa",
            question_id=f"v_{number}",
            video_id=f"video_{number // 9}",
            video=f"all_test/v_video_{number // 9}.mp4",
            question="what does the person in the white shirt do after opening the door of the car",
            options=(),
            refined="What does the person in white do after opening the car door?",
            num_frames=128,
            duration=180.0,
            edges=tuple((11.25 * clip, 11.25 * clip + 11.25) for clip in range(16)),
            clip_scores=tuple(float(draw.choice([0, 0, 0, 1, 2, 3, 5])) for _ in range(16)),
            captions_hash="c0ffee" * 10,
            models={"captioner": "lmms-lab/LLaVA-Video-7B-Qwen2", "refiner": "rule", "scorer": "gpt-4o"},
            prompts="v1",
        )


def command(*words: object) -> dict[str, float]:
    """Seconds and peak memory of `lmms-kvtp skvqa`, its start included.

    The peak is an upper bound: the system counts what this process held when it started the command.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lmms_kvtp", "skvqa", *map(str, words)], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return {
        "wall_s": round(time.perf_counter() - start, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024),
    }


def index_steps(folder: Path, count: int) -> dict[str, Any]:
    """Validate, and statistics with the filter."""
    index = folder / "activitynetqa.jsonl"
    write_entries(index, entries(count))
    return {
        "file_mb": round(index.stat().st_size / 1e6, 1),
        "validate": command("validate", index),
        "stats": command("stats", index),
    }


def throughput(folder: Path, url: str, requests: int) -> dict[int, float]:
    """Answers a second by the limit of requests in flight."""
    bounds, rates = [(0, 7), (8, 15)], {}
    for limit in LIMITS:

        def asked(limit: int = limit) -> Iterator[ChatRequest]:
            for number in range(requests):
                text = f"<clips>\n0-7: cat\n8-15: dog\n</clips>\n<question>{limit}/{number}?</question>"
                yield ChatRequest("score", text, str(number))

        chat = Endpoint("good", url, "key", concurrency=limit)
        start = time.perf_counter()
        found = ask_all(chat, Store(folder / f"{limit}.sqlite"), asked(), lambda _, text: read_scores(text, bounds))
        assert len(found.answers) == requests
        rates[limit] = round(requests / (time.perf_counter() - start), 1)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=50_000)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found: dict[str, Any] = {"questions": given.questions, **index_steps(folder, given.questions)}
        stub = subprocess.Popen(
            [sys.executable, "-u", str(STUB), str(folder / "log"), str(DELAY)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert stub.stdout is not None
            url = f"http://127.0.0.1:{int(stub.stdout.readline())}/v1"
            found["answers_per_second"] = throughput(folder, url, given.requests)
        finally:
            stub.kill()
            stub.wait()
    found |= {"stub_delay_s": DELAY, "cores": os.cpu_count(), "load_average": [round(x, 1) for x in os.getloadavg()]}
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
