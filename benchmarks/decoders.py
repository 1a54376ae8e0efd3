"""Time to get some frames of a 10-minute 720p file: decord against PyAV, and torchcodec where it is installed.

`python benchmarks/decoders.py --kind h264` adds a row of results to benchmarks/results/decoders.json. Variants take
turns within a round, so that other load on the machine meets all of them; CPU seconds, which count the decoders'
threads, suffer less from it than wall seconds.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av
import decord
import long_videos
import numpy as np
import torch

from lmms_kvtp.video import pyav
from lmms_kvtp.video.decord import DecordReader, objection
from lmms_kvtp.video.index import VideoIndex, read_index
from lmms_kvtp.video.pyav import PyAVReader
from lmms_kvtp.video.reader import Reader

CHUNK = 16
RESULTS = Path(__file__).parent / "results" / "decoders.json"
CASES: dict[str, Callable[[int], list[int]]] = {
    "16 frames, evenly": lambda total: np.linspace(0, total - 1, 16).astype(int).tolist(),
    "one frame a second of 30 seconds": lambda total: list(range(0, 900, long_videos.RATE)),
    "every second frame of 4 seconds": lambda total: list(range(0, 120, 2)),
}
LONG = {"128 frames, evenly": lambda total: np.linspace(0, total - 1, 128).astype(int).tolist()}
"""Takes a minute for a round of all decoders."""
Variants = dict[str, Callable[[], Iterator[torch.Tensor]]]


def by_chunk(reader: Reader, wanted: list[int]) -> Iterator[torch.Tensor]:
    for start in range(0, len(wanted), CHUNK):
        yield reader.read(wanted[start : start + CHUNK])
    reader.close()


def by_skipping(index: VideoIndex, wanted: list[int]) -> Iterator[torch.Tensor]:
    """Skip from frame to frame with decord, without its exact seeks."""
    reader, at = decord.VideoReader(index.path, num_threads=1), 0
    for place in wanted:
        if place > at:
            reader.skip_frames(place - at)
        yield torch.from_numpy(reader.next().asnumpy())
        at = place + 1


def by_torchcodec(index: VideoIndex, wanted: list[int]) -> Iterator[torch.Tensor]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(index.path, dimension_order="NHWC", num_ffmpeg_threads=1)
    for start in range(0, len(wanted), CHUNK):
        yield decoder.get_frames_at(wanted[start : start + CHUNK]).data


def without_leaving_out(index: VideoIndex, wanted: list[int]) -> Iterator[torch.Tensor]:
    """Our reader, made to decode those frames too that no other needs."""
    names, pyav.SKIPPING = pyav.SKIPPING, ()
    yield from by_chunk(PyAVReader(index, wanted, 1), wanted)
    pyav.SKIPPING = names


def variants(index: VideoIndex, wanted: list[int], more: bool) -> Variants:
    all_of_them: Variants = {"pyav": lambda: by_chunk(PyAVReader(index, wanted, 1), wanted)}
    if objection(index) is None and reads(index):
        all_of_them["decord"] = lambda: by_chunk(DecordReader(index, 1), wanted)
    if has_torchcodec() and not more:
        all_of_them["torchcodec"] = lambda: by_torchcodec(index, wanted)
    if more:
        all_of_them |= {
            "pyav, all cores": lambda: by_chunk(PyAVReader(index, wanted, 0), wanted),
            "pyav decoding all frames": lambda: without_leaving_out(index, wanted),
            "decord get_batch, all cores": lambda: by_chunk(DecordReader(index, 0), wanted),
            "decord skip and next": lambda: by_skipping(index, wanted),
        }
    return all_of_them


def reads(index: VideoIndex) -> bool:
    """Whether decord gets a frame out at all."""
    try:
        DecordReader(index, 1).read([0])
    except ValueError:
        return False
    return True


def has_torchcodec() -> bool:
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError):  # not installed, or no FFmpeg libraries for it
        return False
    return True


def clock(run: Callable[[], object]) -> tuple[float, float, object]:
    """Wall seconds, CPU seconds, and what the run gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compare(index: VideoIndex, wanted: list[int], repeats: int, more: bool) -> dict[str, object]:
    timings: dict[str, list[tuple[float, float]]] = {}
    sums: dict[str, int] = {}
    for _ in range(repeats):
        for name, read in variants(index, wanted, more).items():
            *seconds, total = clock(lambda read=read: sum(int(part.sum(dtype=torch.int64)) for part in read()))
            timings.setdefault(name, []).append(seconds)
            sums[name] = total
            print(f"{name}: {seconds[0]:.2f} s, CPU {seconds[1]:.2f} s", flush=True)
    rows = {name: rounded(taken) for name, taken in timings.items()}
    ours, over = [wall for wall, _ in timings["pyav"]], {}
    for name, taken in timings.items():
        over[name] = round(statistics.median(wall / base for (wall, _), base in zip(taken, ours, strict=True)), 2)
    return {
        "frames": len(wanted),
        "same_pixels_as_pyav": {name: total == sums["pyav"] for name, total in sums.items()},
        "wall_over_pyav": over,
        "variants": rows,
    }


def rounded(taken: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Median and range of wall and CPU seconds."""
    return {
        name: {"median": round(statistics.median(part), 3), "min": round(min(part), 3), "max": round(max(part), 3)}
        for name, part in zip(("wall_s", "cpu_s"), zip(*taken, strict=True), strict=True)
    }


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": (names or [platform.machine()])[0],
        "cores": os.cpu_count(),
        "load_before": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        **{name: installed(name) for name in ("decord", "av", "torchcodec", "torch", "numpy", "pillow")},
        "libavcodec of av": ".".join(map(str, av.library_versions["libavcodec"])),
    }


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=list(long_videos.KINDS), default="h264")
    parser.add_argument("--long", action="store_true", help="128 frames, evenly, instead of fewer")
    parser.add_argument("--more", action="store_true", help="the same, with other ways to call the decoders")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    path = long_videos.make(given.kind)
    index = read_index(str(path))
    openings = {
        "packet index (read_index)": lambda: read_index(str(path)),
        "pyav open": lambda: PyAVReader(index, [0], 1).close(),
    }
    cases = LONG if given.more or given.long else CASES
    switches = " --long" * given.long + " --more" * given.more
    row = {
        "command": f"python benchmarks/decoders.py --kind {given.kind!r}{switches}",
        "repeats": given.repeats,
        "machine": machine(),
        "file": {"bytes": path.stat().st_size, "frames": index.num_frames, "key_frames": len(index.key_stamps)},
        "opening": {name: rounded([clock(run)[:2] for _ in range(given.repeats)]) for name, run in openings.items()},
        "cases": {
            name: compare(index, choose(index.num_frames), given.repeats, given.more) for name, choose in cases.items()
        },
    }
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows[given.kind + ", 128 frames" * (given.long or given.more) + ", other ways" * given.more] = row
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
