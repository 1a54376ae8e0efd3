"""Writes result and sample files as lmms-eval 0.7.3 does with the plug-in, and reads them as the leaderboard does."""

import json
from pathlib import Path

from lmms_kvtp.leaderboard.board import Board, build
from lmms_kvtp.leaderboard.discover import pending_runs

PARTS = {
    "encoder": {"class": "lmms_kvtp.encoders.siglip:Siglip", "device": "cpu"},
    "scorer": {"class": "lmms_kvtp.scorers.uniform:Uniform"},
    "allocator": {"class": "lmms_kvtp.allocators.uniform:Uniform"},
    "pruner": {"class": "lmms_kvtp.pruners.random:RandomTokens", "seed": 0},
    "layer_pruning": {"class": "lmms_kvtp.layer_pruning.none:NoLayerPruning"},
}
ALL = {"pruner": {"class": "lmms_kvtp.pruners.none:Unpruned"}}
BASE, OURS = [1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 0, 0]
"""Scores of the unpruned model, and of a method."""
COST = {
    "num_frames": 7,
    "tokens_before": 100,
    "tokens_kept": 25,
    "tokens_structural": 3,
    "prompt_tokens": 40,
    "keep_ratio": 0.25,
    "seconds": {"decode": 0.25, "prefill": 0.5},
    "flops": {"vision": 3_000_000, "prefill": 5_000_000},
    "questions_on_video": 2,
}


def sample(doc: int, score: float, video: str = "v0", kind: str = "color", cost=COST, **more) -> dict:
    row = {"doc_id": doc, "question_id": f"q{doc}", "video_id": video, "kind": kind, "score": score}
    return {**row, "token_counts": [cost], "input": f"question {doc}", "filtered_resps": ["A"], **more}


def samples(scores, **more) -> list[dict]:
    """Two questions a video, of alternating kinds."""
    kinds = ("color", "end")
    return [sample(i, float(s), f"v{i // 2}", kinds[i % 2], **more) for i, s in enumerate(scores)]


def results(task: str, parts=None, keep_ratio: float = 0.25, **changes) -> dict:
    method = {**PARTS, **(parts or {}), "keep_ratio": keep_ratio}
    ours = {
        "toy": changes.get("toy", True),
        "method": method,
        "model": {"pretrained": changes.get("model", "tiny"), "dtype": "float32"},
        "frames": {
            "max_frames_num": changes.get("frames", 16),
            "chunk_size": changes.get("chunk_size", 16),
            "phase": changes.get("phase", 0.0),
        },
        "weights": {"tiny": "abcdef0123456789"},
        "seed": changes.get("seed", 0),
        "batch_size": changes.get("batch_size", 1),
        "verdicts": changes.get("verdicts", {}),
        "notes": changes.get("notes", {}),
        "source": "5a",
        "versions": {"lmms_kvtp": changes.get("version", "0.1.0"), "torch": "2.15.0"},
        "tree": {"commit": changes.get("commit", "0123456789abcdef"), "dirty": changes.get("dirty", False)},
    }
    arguments = {"tasks": task, "limit": None, "seed": [0, 1234, 1234, 1234], "lmms_kvtp": ours}
    arguments["timezone"] = changes.get("timezone", "Asia/Singapore")
    settings = changes.get("model_args", f"pretrained=tiny,keep_ratio={keep_ratio}")
    return {
        "results": {task: {"score,none": 0.5, **changes.get("told", {})}},
        "configs": {task: {"task": task, "metric_list": [{"metric": "skvqa_acc"}], **changes.get("config", {})}},
        "versions": {task: changes.get("task_version", 1.0)},
        "config": {"model": "llava_video_kvtp", "model_args": settings, "resolved_cli_args": arguments},
        "git_hash": "feedbee",
        "lmms_eval_version": changes.get("harness", "0.7.3"),
        "date": changes.get("date", "20260101_000000"),
    }


def write_run(
    folder: Path, rows: list[dict], task: str = "skvqa_synth", parts=None, keep_ratio=0.25, **changes
) -> Path:
    """Results and samples below `folder`, in the model's folder, as the harness names them."""
    place, stamp = folder / "tiny", changes.pop("stamp", "20260101_000000")
    place.mkdir(parents=True, exist_ok=True)
    content = results(task, parts, keep_ratio, **{"date": stamp, **changes})
    (place / f"{stamp}_results.json").write_text(json.dumps(content))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (place / f"{stamp}_samples_{task}.jsonl").write_text(lines)
    return folder


def write_base(folder: Path, scores, task: str = "skvqa_synth", **changes) -> Path:
    """A run of the unpruned model."""
    cost = {**COST, "tokens_kept": 100, "keep_ratio": 1.0}
    rows = samples(scores, cost=cost)
    for row, letter in zip(rows, changes.pop("told_answers", ""), strict=False):
        row["filtered_resps"] = [letter]
    return write_run(folder, rows, task, ALL, 1.0, **changes)


def write_pair(folder: Path, **changes) -> Path:
    """The unpruned model and random tokens, on the same questions; `changes` are the latter's."""
    write_base(folder / "full", BASE)
    write_run(folder / "random", samples(OURS), **changes)
    return folder


def read_board(folder: Path, gates=(), allow=(), processes: int = 1) -> Board:
    """The board of all runs below `folder`."""
    with pending_runs([folder], processes) as runs:
        return build(runs, gates, allow)
