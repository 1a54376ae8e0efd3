r"""Cost and memory against the number of frames, at the token total of 128 unpruned ones, on the embedded model.

    python benchmarks/frame_counts.py --output benchmarks/results/frame_counts.json \
        --figure docs/figures/frame_counts.svg

A video of 2,048 s in H.264, two frames a second, is made once; 64 to 2,048 of its frames are read, each number in a
process of its own, and one question is answered by KVTP with PruMerge. As many tokens are kept as 128 frames have, all
of them at 64 and 128. A question on 16 frames goes before, so that libraries are loaded and buffers made. Memory is the
peak of the process above what it held then; beside it stand the bytes of the features that must be kept, and of all
frames and all pixels, if these stood in memory together.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from lmms_kvtp.api import load
from lmms_kvtp.encode import encode
from lmms_kvtp.pipeline import finish, prepare
from lmms_kvtp.presets import settings_of
from lmms_kvtp.questions import Question
from lmms_kvtp.rendering import drawing, to_svg
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions

COUNTS = (64, 128, 256, 512, 1024, 2048)
FULL = 128
"""Frames whose tokens make the total."""
HEIGHT, WIDTH = 360, 640
QUESTION = Question("What color is the star?", "What color is the star?")
MIB = 2**20


def write_video(path: Path, frames: int = 2 * COUNTS[-1]) -> None:
    """Two frames a second, each another gradient with a moving square."""
    ramp = np.linspace(0, 255, WIDTH, dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"preset": "veryfast", "g": "32"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            image = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
            image[..., 0], image[..., 1], image[..., 2] = np.roll(ramp, 5 * number), number % 256, 255 - ramp
            image[100:200, (7 * number) % 500 :][:, :100] = (number * 31) % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def measure(path: Path, frames: int, chunk_size: int) -> dict[str, Any]:
    """One answer, in this process."""
    torch.set_num_threads(1)
    model = load("tiny", device="cpu")

    def answer(count: int) -> tuple[Any, Any]:
        method = model.method(settings_of("kvtp+prumerge", min(1.0, FULL / count)))
        options = FrameOptions(max_frames_num=count, force_sample=True, chunk_size=chunk_size)
        encoded = encode(model.vlm, method, load_video(path, options))
        ready = prepare(model.vlm, method, [encoded], QUESTION)
        return encoded, finish(model.vlm, method, [ready], GenerationOptions(max_new_tokens=4))[0].cost

    answer(16)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    begin = time.process_time()
    encoded, cost = answer(frames)
    spent = time.process_time() - begin
    features = [encoded.tokens.embeds, *(value for value in vars(encoded.features).values() if value is not None)]
    return {
        "frames": frames,
        "tokens_before": cost.tokens_before,
        "tokens_kept": cost.tokens_kept,
        "prompt_tokens": cost.prompt_tokens,
        "seconds": {stage: round(spent, 4) for stage, spent in cost.seconds.items()},
        "cpu_seconds": round(spent, 2),
        "gflops": {stage: round(count / 1e9, 3) for stage, count in cost.flops.items()},
        "peak_mib": round((status("VmHWM") - before) / MIB, 1),
        "features_mib": round(sum(value.nbytes for value in features) / MIB, 1),
        "all_frames_mib": round(frames * HEIGHT * WIDTH * 3 / MIB, 1),
        "all_pixels_mib": round(frames * 3 * model.vlm.vision.image_size**2 * 4 / MIB, 1),
    }


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """Operations of each stage, CPU seconds, and memory, against frames."""
    counts = [row["frames"] for row in rows]
    stages = [stage for stage, count in rows[-1]["gflops"].items() if count > 0.5]
    with drawing(8.4, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        left.stackplot(counts, *[[row["gflops"].get(stage, 0.0) for row in rows] for stage in stages], labels=stages)
        left.set_ylabel("GFLOP of one answer")
        left.legend(fontsize=8, loc="upper left")
        for name, label, marker in (
            ("peak_mib", "peak of the process", "o"),
            ("features_mib", "features that are kept", "s"),
            ("all_pixels_mib", "all pixels, if kept", "^"),
            ("all_frames_mib", "all frames, if kept", "v"),
        ):
            right.plot(counts, [row[name] for row in rows], marker=marker, ms=4, label=label)
        right.set_ylabel("MiB")
        right.set_yscale("log")
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.set_xlabel(f"frames; tokens of {FULL} are kept")
            axes.set_xticks(counts)
        return to_svg(figure) + "\n"


def main() -> None:
    """Measure each number of frames in a process of its own, print the rows, write file and figure if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--chunk_size", type=int, default=16)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("VIDEO", "FRAMES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        path, frames = arguments.child
        sys.stdout.write(json.dumps(measure(Path(path), int(frames), arguments.chunk_size)) + "\n")
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "long.mp4"
        write_video(path)
        for count in arguments.counts:
            command = [sys.executable, __file__, "--chunk_size", str(arguments.chunk_size)]
            command += ["--child", str(path), str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    if arguments.output:
        held = {"machine": {"cores": os.cpu_count(), "torch": torch.__version__, "threads": 1}, "rows": rows}
        arguments.output.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        arguments.figure.write_text(draw(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
