"""Time of `lmms-kvtp leaderboard` on 200 runs of 3,000 samples, from the start of the command to all pages written.

    python benchmarks/leaderboard.py --repeats 3

Makes the runs in the temporary folder (1.1 GB); their lines are as long as those of the embedded benchmark, 1.8 kB.
The same command on a single run of one sample shows what of that is loading the harness. Where there is a Chromium, it
opens the page of single questions, of ten rows with the tokens kept of 128 frames, as often: seconds from the start of
loading until the first questions are laid out. Writes benchmarks/results/leaderboard.json.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "leaderboard.json"
STAGES = ("decode", "preprocess", "vision", "encoder", "scorer", "pruner", "prefill", "generate")
LIMIT = 20.0
PAGE_LIMIT = 2.0
TASK = "videomme"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LAID_OUT = "<script>document.body.offsetHeight; document.title = `opened ${performance.now()}`;</script></body>"


def main() -> None:
    """Make the runs, time the command, and store what was found at full size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="leaderboard_"))
    try:
        size = make(folder / "runs", arguments.runs, arguments.samples)
        make(folder / "one", 1, 1)
        start = command(folder / "one", folder / "board")
        whole = [command(folder / "runs", folder / "board") for _ in range(arguments.repeats)]
        page = (folder / "board" / "index.html").stat().st_size
        make(folder / "ten", 10, arguments.samples, frames=128)
        command(folder / "ten", folder / "ten_board")
        opened = [seconds_to_open(folder / "ten_board") for _ in range(arguments.repeats if BROWSER else 0)]
        script = (folder / "ten_board" / "samples.js").stat().st_size
    finally:
        shutil.rmtree(folder)
    report = {
        "seconds": statistics.median(one["wall"] for one in whole),
        "limit_seconds": LIMIT,
        "repeats": whole,
        "one_sample": start,
        "runs": arguments.runs,
        "samples": arguments.samples,
        "megabytes": round(size / 1e6),
        "page_megabytes": round(page / 1e6, 2),
        "samples_page": {
            "seconds": opened,
            "limit_seconds": PAGE_LIMIT,
            "rows": 10,
            "megabytes": round(script / 1e6, 1),
        },
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    if (arguments.runs, arguments.samples) == (200, 3000):
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


def command(runs: Path, out: Path) -> dict[str, float]:
    """Seconds of one command, on the clock and of CPU over all of its processes, beside the machine's load before."""
    load, before, start = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    argv = [sys.executable, "-m", "lmms_kvtp", "leaderboard", str(runs), "--out", str(out)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(wall, 2), "cpu": round(cpu, 2), "load_average": load}


def seconds_to_open(board: Path) -> float:
    """Seconds until a new browser has read the page of single questions and laid out the first of them."""
    page = board / "timed.html"
    page.write_text((board / "samples.html").read_text().replace("</body>", LAID_OUT))
    argv = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{page}"]
    told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return round(float(re.findall(r"<title>opened ([\d.]+)</title>", told)[0]) / 1000, 2)


def make(folder: Path, runs: int, samples: int, frames: int = 0) -> int:
    """Write runs in the harness's format, with the tokens kept of so many frames; returns their bytes."""
    size = 0
    for number in range(runs):
        rng = random.Random(number)
        ratio = 1.0 if number == 0 else rng.choice([0.25, 0.2, 0.15, 0.1])
        place = folder / f"run_{number:03d}" / "model"
        place.mkdir(parents=True)
        (place / "20260101_000000_results.json").write_text(json.dumps(results(number, ratio)))
        path = place / f"20260101_000000_samples_{TASK}.jsonl"
        path.write_text("".join(json.dumps(sample(doc, ratio, rng, frames)) + "\n" for doc in range(samples)))
        size += path.stat().st_size
    return size


def sample(doc: int, ratio: float, rng: random.Random, frames: int) -> dict[str, object]:
    """Samples like those of the embedded benchmark, with the costs of a model of 28 layers."""
    kept = int(21632 * ratio)
    seconds = {stage: rng.random() for stage in STAGES}
    flops = {stage: rng.randrange(10**14) for stage in STAGES[2:]}
    cost = {
        "num_frames": 128,
        "tokens_before": 21632,
        "tokens_kept": kept,
        "tokens_structural": 128,
        "prompt_tokens": kept + 200,
        "output_tokens": 2,
        "keep_ratio": ratio,
        "layer_lengths": [kept + 200] * 28,
        "reused_tokens": 0,
        "questions_on_video": 3,
        "seconds": seconds,
        "flops": flops,
        "prefill_flops_causal": rng.randrange(10**14),
        "peak_bytes": 20 * 2**30,
        "swept": False,
        "cold": doc < 3,
        "keep_ratio_actual": kept / 21632,
        "seconds_total": sum(seconds.values()),
        "first_token_seconds": sum(seconds.values()),
        "flops_total": sum(flops.values()),
        "layer_average": 1.0,
    }
    if frames:
        cost["kept_by_frame"] = [rng.randrange(170) for _ in range(frames)]
    item = {
        "question_id": f"{doc // 3:04d}-{doc % 3}",
        "video_id": f"video-{doc // 3}",
        "kind": ("OCR", "counting", "action", "order", "reasoning")[doc % 5],
        "answer": "A",
        "score": float(rng.random() < 0.6),
    }
    return {
        "doc_id": doc,
        "target": "A",
        "filtered_resps": "A",
        "token_counts": [{"input_tokens": 5000, **cost}],
        "doc_hash": f"{rng.getrandbits(256):064x}",
        "acc": item,
        **item,
        "input": "Select the best answer to the following multiple-choice question based on the video. " * 3,
    }


def results(number: int, ratio: float) -> dict[str, object]:
    parts = {
        "scorer": {"class": "lmms_kvtp.scorers.uniform:Uniform"},
        "allocator": {"class": "lmms_kvtp.allocators.uniform:Uniform"},
        "pruner": {"class": "lmms_kvtp.pruners.random:RandomTokens", "seed": number}
        if number
        else {"class": "lmms_kvtp.pruners.none:Unpruned"},
        "layer_pruning": {"class": "lmms_kvtp.layer_pruning.none:NoLayerPruning"},
    }
    ours = {"method": {**parts, "keep_ratio": ratio}, "model": {"pretrained": "m"}, "seed": number}
    return {
        "results": {TASK: {}},
        "configs": {TASK: {}},
        "versions": {TASK: 1.0},
        "config": {"model": "llava_video_kvtp", "model_args": f"n={number}", "resolved_cli_args": {"lmms_kvtp": ours}},
        "lmms_eval_version": "0.7.3",
    }


if __name__ == "__main__":
    main()
