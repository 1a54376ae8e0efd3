"""Time to read 200 runs of 3,000 samples and to write all pages of the leaderboard.

Run `nice python benchmarks/leaderboard.py`; it makes the runs in the temporary folder (0.8 GB), in the harness's format
with costs of the usual size, and writes benchmarks/results/leaderboard.json. Importing the harness is timed apart.
"""

import argparse
import json
import platform
import random
import shutil
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "leaderboard.json"
STAGES = ("decode", "preprocess", "vision", "encoder", "scorer", "pruner", "prefill", "generate")
LIMIT = 20.0
TASK = "videomme"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=3000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="leaderboard_"))
    try:
        size = make(folder, arguments.runs, arguments.samples)
        report = measure(folder)
    finally:
        shutil.rmtree(folder)
    report |= {"runs": arguments.runs, "samples": arguments.samples, "megabytes": round(size / 1e6)}
    report |= {"python": platform.python_version(), "machine": platform.machine(), "limit_seconds": LIMIT}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def measure(folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    from lmms_kvtp.leaderboard.board import build
    from lmms_kvtp.leaderboard.formats import to_latex, to_markdown
    from lmms_kvtp.leaderboard.judging import judge
    from lmms_kvtp.leaderboard.page import to_html
    from lmms_kvtp.leaderboard.records import to_csv, to_json
    from lmms_kvtp.leaderboard.reported import reported

    imported, cpu = time.perf_counter(), time.process_time()
    board = build([folder])
    read, read_cpu = time.perf_counter(), time.process_time()
    judged = judge(board)
    for text in (to_markdown(board, reported(), judged), to_latex(board), to_csv(board), to_json(board)):
        assert text
    html = to_html(board, reported(), judged)
    written, written_cpu = time.perf_counter(), time.process_time()
    return {
        "rows": len(board.rows),
        "import_seconds": imported - start,
        "read_seconds": read - imported,
        "read_cpu_seconds": read_cpu - cpu,
        "write_seconds": written - read,
        "write_cpu_seconds": written_cpu - read_cpu,
        "page_megabytes": len(html) / 1e6,
    }


def make(folder: Path, runs: int, samples: int) -> int:
    """Write runs in the harness's format; returns their bytes."""
    size = 0
    for number in range(runs):
        rng = random.Random(number)
        ratio = 1.0 if number == 0 else rng.choice([0.25, 0.2, 0.15, 0.1])
        place = folder / f"run_{number:03d}" / "model"
        place.mkdir(parents=True)
        (place / "20260101_000000_results.json").write_text(json.dumps(results(number, ratio)))
        path = place / f"20260101_000000_samples_{TASK}.jsonl"
        path.write_text("".join(json.dumps(sample(doc, ratio, rng)) + "\n" for doc in range(samples)))
        size += path.stat().st_size
    return size


def sample(doc: int, ratio: float, rng: random.Random) -> dict[str, object]:
    cost = {
        "num_frames": 128,
        "tokens_before": 21632,
        "tokens_kept": int(21632 * ratio),
        "tokens_structural": 128,
        "prompt_tokens": int(21632 * ratio) + 200,
        "output_tokens": 2,
        "keep_ratio": ratio,
        "layer_lengths": [int(21632 * ratio) + 200] * 28,
        "questions_on_video": 3,
        "seconds": {stage: rng.random() for stage in STAGES},
        "flops": {stage: rng.randrange(10**14) for stage in STAGES[2:]},
        "peak_bytes": 20 * 2**30,
    }
    return {
        "doc_id": doc,
        "target": "A",
        "filtered_resps": "A",
        "token_counts": [{"input_tokens": 5000, "output_tokens": 2, **cost}],
        "question_id": f"{doc // 3:04d}-{doc % 3}",
        "video_id": f"video-{doc // 3}",
        "kind": ("OCR", "counting", "action", "order", "reasoning")[doc % 5],
        "score": float(rng.random() < 0.6),
        "input": "Select the best answer to the following multiple-choice question based on the video. " * 4,
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
