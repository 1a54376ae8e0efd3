"""CPU seconds between a 10-minute 720p file and the pixels of a tower: seek, decode, convert, resize, normalise.

    python benchmarks/decode_profile.py --output benchmarks/results/decode_profile.json

One thread, 128 frames spread evenly, chunks of 16; each part as Python's profiler finds it. "ours" is what is left of
the whole: finding frames by their stamps, stacking, copying.
"""

import argparse
import cProfile
import json
import os
import pstats
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import long_videos
import torch

from lmms_kvtp.rendering import markdown
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions

SPEC = ResizedPixels((384, 384))
PARTS = {
    "seek": "<method 'seek' of 'av",
    "decode": "<method 'decode' of 'av",
    "convert to RGB": "_to_rgb",
    "resize": "resize",
    "normalise": "normalise",
}
"""A part of the name of each part's function."""


def profiled(path: Path, frames: int) -> dict[str, float]:
    """CPU seconds of each part, once."""
    video = load_video(path, FrameOptions(frames, force_sample=True, num_threads=1))
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for chunk in video.chunks():
        chunk.pixels(SPEC)
    profile.disable()
    stats: Any = pstats.Stats(profile)
    found = {name: _seconds(stats.stats, wanted) for name, wanted in PARTS.items()}
    return {**found, "ours, and packets": stats.total_tt - sum(found.values()), "all": stats.total_tt}


def _seconds(stats: Mapping[tuple[str, int, str], tuple[Any, ...]], wanted: str) -> float:
    return max((row[3] for (_, _, name), row in stats.items() if name.startswith(wanted)), default=0.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = long_videos.make("h264")
    rounds = [profiled(path, arguments.frames) for _ in range(arguments.rounds)]
    rows, whole = [], statistics.median(one["all"] for one in rounds)
    for name in rounds[0]:
        seconds = sorted(one[name] for one in rounds)
        middle = statistics.median(seconds)
        told = f"{middle:.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"
        rows.append([name, told, f"{100 * middle / whole:.0f}", f"{1000 * middle / arguments.frames:.1f}"])
    sys.stdout.write(markdown(["part", "CPU s", "%", "ms a frame"], rows) + "\n")
    sys.stdout.write(f"load average {os.getloadavg()[0]:.1f}\n")
    if arguments.output:
        record = {"frames": arguments.frames, "rounds": rounds, "load": os.getloadavg()[0]}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
