"""Milliseconds a frame from 1280x720 bytes to the pixels of a 384 x 384 tower, and what `preprocess=fast` changes.

`python benchmarks/preprocess.py` takes turns between the variants on 16 frames of the 10-minute file, and writes
benchmarks/results/preprocess.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import long_videos
import numpy as np
import torch
from decoders import machine
from PIL import Image

from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions

RESULTS = Path(__file__).parent / "results" / "preprocess.json"
SPEC = ResizedPixels((384, 384))


def in_float64(rgb: torch.Tensor) -> torch.Tensor:
    """Frame by frame, scaled in float64 as the image processor does: the package's code until this was measured."""
    pixels = torch.empty(len(rgb), 3, *SPEC.size)
    for frame, resized in zip(rgb, pixels, strict=True):
        image = Image.fromarray(frame.numpy()).resize(SPEC.size[::-1], SPEC.resample)
        resized.copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1).double().mul_(1 / 255))
    return pixels.sub_(torch.full((3, 1, 1), 0.5)).div_(torch.full((3, 1, 1), 0.5))


def on_threads(threads: int, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    torch.set_num_threads(threads)
    try:
        return run()
    finally:
        torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    options = FrameOptions(max_frames_num=16, force_sample=True)
    [frames] = load_video(long_videos.make("h264"), options).chunks()
    rgb = frames.rgb
    resized = SPEC.resize(rgb)
    variants: dict[str, Callable[[], torch.Tensor]] = {
        "frame by frame, float64": lambda: in_float64(rgb),
        "exact, 1 thread": lambda: SPEC.normalize(SPEC.resize(rgb)),
        "exact, 2 threads": lambda: on_threads(2, lambda: SPEC.normalize(SPEC.resize(rgb))),
        "fast, 1 thread": lambda: SPEC.normalize(SPEC.resize(rgb, fast=True)),
        "resize alone, exact, 1 thread": lambda: SPEC.resize(rgb),
        "resize alone, fast, 1 thread": lambda: SPEC.resize(rgb, fast=True),
        "normalize alone, 1 thread": lambda: SPEC.normalize(resized),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    made: dict[str, torch.Tensor] = {}
    for _ in range(repeats):
        for name, run in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            made[name] = run()
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            taken[name].append((1000 * spent[0] / len(rgb), 1000 * spent[1] / len(rgb)))
    off = (SPEC.resize(rgb).int() - SPEC.resize(rgb, fast=True).int()).abs()
    result = {
        "command": "python benchmarks/preprocess.py",
        "repeats": repeats,
        "machine": machine(),
        "equal_pixels": {
            name: torch.equal(made["frame by frame, float64"], made[name]) for name in list(variants)[1:4]
        },
        "fast_bytes_off": {"share": round(float((off > 0).float().mean()), 5), "most": int(off.max())},
        "ms_per_frame": {name: spread(values) for name, values in taken.items()},
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def spread(values: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Median and range of wall and CPU milliseconds."""
    return {
        name: {"median": round(statistics.median(part), 2), "min": round(min(part), 2), "max": round(max(part), 2)}
        for name, part in zip(("wall", "cpu"), zip(*values, strict=True), strict=True)
    }


if __name__ == "__main__":
    main()
