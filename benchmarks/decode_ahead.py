"""Wall time of a run on 720p files: decoded ahead, by several threads, kept on disk, against none of it.

    python benchmarks/decode_ahead.py --length 10 --rounds 2  # decoding is longer
    python benchmarks/decode_ahead.py --videos 4 --variants "in one process" "decode ahead" "by two processes"
    python benchmarks/decode_ahead.py --length 1.25 --rounds 3 --variants "in one process" "decode ahead"  # model
    python benchmarks/decode_ahead.py --videos 6 --length 1.25 --rounds 2 --variants "in one process" "decode ahead"

Variants take turns, each in a process of its own, on the embedded model with one thread; two free cores are needed.
Rounds are added to benchmarks/results/decode_ahead.json, and the table of docs/performance.md is made of that file.
Sides are sums of the ledger's stages: what the decoder does (decode, preprocess), and what the model does (the rest).
The clock starts when the model is loaded, and stops at the last answer: the start of the other process is inside.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import long_videos
from decoders import machine

from lmms_kvtp.rendering import markdown, write_between

RESULTS = Path(__file__).parent / "results" / "decode_ahead.json"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MINUTES = {"10": long_videos.COPIES, "1.25": 1}
"""Lengths of a video, and of how many equal parts it is made."""
WORK: dict[str, dict[str, str]] = {"10": {}, "1.25": {"fps": "2", "keep_ratio": "1"}}
"""Settings of all variants; of short videos more frames and all tokens are read, which is more work for the model."""
TASK = "long_videos"
OPTIONS = "A. red\nB. green\nC. blue\nD. white\nAnswer with the option's letter."
QUESTIONS = tuple(f"What color is the {thing}?\n{OPTIONS}" for thing in ("star", "circle", "cross", "sky"))
VARIANTS: dict[str, dict[str, str]] = {
    "in one process": {"decode_ahead_mib": "0"},
    "decode ahead": {"decode_ahead_mib": "1024", "decode_ahead_processes": "1"},
    "by two processes": {"decode_ahead_mib": "1024", "decode_ahead_processes": "2"},
    "decoder threads": {"decode_ahead_mib": "0", "num_threads": "2"},
    "frame cache, first run": {"decode_ahead_mib": "0", "frame_cache": "CACHE"},
    "frame cache, next run": {"decode_ahead_mib": "0", "frame_cache": "CACHE"},
    "decode ahead, preprocess=fast": {
        "decode_ahead_mib": "1024",
        "decode_ahead_processes": "1",
        "preprocess": "fast",
    },
}
EXACT = list(VARIANTS)[:-1]
"""Variants whose answers are the same."""


def answer(folder: Path, settings: dict[str, str]) -> dict[str, object]:
    """One run in this process: wall seconds, sides, and the answers."""
    import torch
    from lmms_eval.api.instance import Instance

    from lmms_kvtp.bench.waterfall import DECODER, WAITING, one_after_the_other, stage_seconds
    from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
    from lmms_kvtp.run.journal import read

    torch.set_num_threads(1)
    paths = sorted(str(path) for path in folder.glob("*.mp4"))
    docs = [{"path": path, "question": question} for path in paths for question in QUESTIONS]
    common = {"pretrained": "tiny", "allow_toy": True, "device": "cpu", "journal": tempfile.mkdtemp()}
    model = LlavaVideoKvtp(**common, **settings)
    model.task_dict[TASK] = {"test": docs}
    requests = []
    for number, doc in enumerate(docs):
        told = (doc["question"], {"max_new_tokens": 8}, lambda doc: [doc["path"]], number, TASK, "test")
        about = {"task": TASK, "doc_id": number, "repeats": 1, "version": 1}
        requests.append(Instance("generate_until", told, 0, about))
    start = time.perf_counter()
    answers = model.generate_until(requests)
    wall = time.perf_counter() - start
    seconds = stage_seconds([made.cost for made in read(model.session.journal.path).answers.values()])
    decoder = sum(seconds[stage] for stage in DECODER)
    sides = {"decoder_s": decoder, "model_s": one_after_the_other(seconds) - decoder, "waiting_s": seconds[WAITING]}
    texts = [made.text for made in answers]
    return {"wall_s": round(wall, 2), **{name: round(spent, 2) for name, spent in sides.items()}, "texts": texts}


def play(folder: Path, names: list[str], work: dict[str, str]) -> dict[str, dict[str, object]]:
    """Each variant once, in a new process."""
    round_of, cache = {}, folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    for name in names:
        settings = work | {key: value.replace("CACHE", str(cache)) for key, value in VARIANTS[name].items()}
        command = [sys.executable, __file__, "--child", json.dumps([str(folder), settings])]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
        round_of[name] = json.loads(made.stdout.splitlines()[-1])
        print(name, {key: value for key, value in round_of[name].items() if key != "texts"}, flush=True)
    return round_of


def summary(rounds: list[dict[str, dict[str, object]]]) -> dict[str, object]:
    """Medians and ranges of each variant, and the ratios within each round."""
    rows: dict[str, object] = {}
    for name in rounds[-1]:
        rows[name] = {
            "wall_s": spread([turn[name]["wall_s"] for turn in rounds]),
            "decoder_s": spread([turn[name]["decoder_s"] for turn in rounds]),
            "model_s": spread([turn[name]["model_s"] for turn in rounds]),
            "waiting_s": spread([turn[name]["waiting_s"] for turn in rounds]),
            "wall_over_larger_side": spread(
                [turn[name]["wall_s"] / max(turn[name]["decoder_s"], turn[name]["model_s"]) for turn in rounds]
            ),
            "one_process_over_this": spread(
                [turn["in one process"]["wall_s"] / turn[name]["wall_s"] for turn in rounds]
            ),
            "same_answers": all(turn[name]["texts"] == turn["in one process"]["texts"] for turn in rounds),
        }
    return rows


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {name: round(of(values), 2) for name, of in (("median", statistics.median), ("min", min), ("max", max))}


def table(rows: dict[str, Any]) -> str:
    """For people: medians and ranges, by length of the videos."""
    columns = {
        "wall s": "wall_s",
        "decoder s": "decoder_s",
        "model s": "model_s",
        "wall / larger side": "wall_over_larger_side",
        "one process / this": "one_process_over_this",
    }
    lines = [
        [f"{row['videos']} x {row['minutes']} min", name, *(shown(found[column]) for column in columns.values())]
        for row in rows.values()
        for name, found in row["summary"].items()
    ]
    notes = [
        f"{row['videos']} videos of {row['minutes']} minutes: {len(row['rounds'])} rounds, load average "
        f"{row['machine']['load_before'][0]} before the last, answers {'equal' if all_equal(row) else 'DIFFER'}."
        for row in rows.values()
    ]
    return "\n".join([markdown(["videos", "", *columns], lines), "", *notes])


def all_equal(row: dict[str, Any]) -> bool:
    """Every variant that promises it gave the answers of one process."""
    return all(found["same_answers"] for name, found in row["summary"].items() if name in EXACT)


def shown(spread: dict[str, float]) -> str:
    """A median with its range, to three digits."""
    return "{median:.3g} ({min:.3g}-{max:.3g})".format(**spread)


def videos(count: int, minutes: str) -> Path:
    """A folder of so many files, made once: copies of one."""
    folder = Path(tempfile.gettempdir()) / f"lmms_kvtp_decode_ahead_{count}x{minutes}"
    folder.mkdir(exist_ok=True)
    for number in range(count):
        if not (folder / f"{number}.mp4").exists():
            shutil.copy(long_videos.make("h264", MINUTES[minutes]), folder / f"{number}.mp4")
    return folder


def main() -> None:
    """Add rounds, and write file and table anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--length", choices=list(MINUTES), default="10", help="minutes of a video (default 10)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=EXACT)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder, settings = json.loads(given.child)
        print(json.dumps(answer(Path(folder), settings)))
        return
    folder = videos(given.videos, given.length)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for _ in range(given.rounds):
        name = f"{given.videos} videos of {given.length} minutes: {', '.join(given.variants)}"
        rounds = [*rows.get(name, {}).get("rounds", []), play(folder, given.variants, WORK[given.length])]
        rows[name] = {
            "command": f"python benchmarks/decode_ahead.py --videos {given.videos} --length {given.length}",
            "machine": machine(),
            "videos": given.videos,
            "minutes": given.length,
            "questions_on_each": len(QUESTIONS),
            "summary": summary(rounds),
            "rounds": rounds,
        }
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_between(PAGE, table(rows), "decode ahead")
    print(table(rows))


if __name__ == "__main__":
    main()
