"""Time to get 128 frames of a 10-minute 720p H.264 file with a key frame every 250: decord against PyAV.

Run `nice python benchmarks/decoders.py`; it writes benchmarks/results/decoders.json. The file is made once, in the
temporary folder. Variants take turns within a round, so that other load on the machine meets all of them; CPU seconds,
which count the decoders' threads, suffer less from it than wall seconds.
"""

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import av
import decord
import numpy as np
import torch
from PIL import Image

from lmms_kvtp.decoders import pyav
from lmms_kvtp.decoders.base import Reader
from lmms_kvtp.decoders.decord import DecordReader
from lmms_kvtp.decoders.index import VideoIndex, read_index
from lmms_kvtp.decoders.pyav import PyAVReader

WIDTH, HEIGHT, RATE, GROUP, FRAMES, COPIES = 1280, 720, 30, 250, 2250, 8
CHUNK = 16
RESULTS = Path(__file__).parent / "results" / "decoders.json"


def pictures() -> list[np.ndarray]:
    """Smooth random landscapes, each wider and higher than a frame."""
    rng = np.random.default_rng(0)
    scenes = []
    for _ in range(9):
        layers = [(8, 60), (32, 40), (120, 25), (400, 12)]
        noise = [(Image.fromarray(rng.integers(0, 256, (n, 3 * n, 3), dtype=np.uint8)), amount) for n, amount in layers]
        sized = [np.asarray(image.resize((2600, 900), Image.Resampling.BICUBIC), np.float32) for image, _ in noise]
        total = sum(layer * amount / 128 for layer, (_, amount) in zip(sized, noise, strict=True))
        scenes.append(np.clip(total, 0, 255).astype(np.uint8))
    return scenes


def encode_part() -> bytes:
    """75 seconds of a camera that pans over the landscapes."""
    scenes, buffer = pictures(), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": "26", "preset": "veryfast", "x264-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            x, y = int(number % GROUP * 4.3), int(60 + 50 * np.sin(number / 25))
            crop = scenes[number // GROUP][y : y + HEIGHT, x : x + WIDTH]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def make_file() -> Path:
    """The file of 18,000 frames: one part, again and again."""
    path = Path(tempfile.gettempdir()) / f"lmms_kvtp_decoders_{WIDTH}x{HEIGHT}_{GROUP}_{FRAMES}x{COPIES}.mp4"
    if path.exists():
        return path
    part, unfinished = encode_part(), path.with_suffix(".part.mp4")
    with av.open(str(unfinished), "w") as output:
        stream = None
        for copy in range(COPIES):
            with av.open(io.BytesIO(part)) as source:
                template = source.streams.video[0]
                stream = stream or output.add_stream_from_template(template)
                shift = int(copy * FRAMES / RATE / template.time_base)
                for packet in source.demux(template):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        output.mux(packet)
    unfinished.rename(path)
    return path


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


def without_leaving_out(index: VideoIndex, wanted: list[int]) -> Iterator[torch.Tensor]:
    """Our reader, made to decode those frames too that no other needs."""
    names, pyav.SKIPPING = pyav.SKIPPING, ()
    yield from by_chunk(PyAVReader(index, wanted, 1), wanted)
    pyav.SKIPPING = names


def variants(index: VideoIndex, wanted: list[int]) -> dict[str, Callable[[], Iterator[torch.Tensor]]]:
    return {
        "decord get_batch, 1 thread": lambda: by_chunk(DecordReader(index, 1), wanted),
        "decord get_batch, all cores": lambda: by_chunk(DecordReader(index, 0), wanted),
        "decord skip and next, 1 thread": lambda: by_skipping(index, wanted),
        "pyav, 1 thread": lambda: by_chunk(PyAVReader(index, wanted, 1), wanted),
        "pyav, all cores": lambda: by_chunk(PyAVReader(index, wanted, 0), wanted),
        "pyav decoding all frames, 1 thread": lambda: without_leaving_out(index, wanted),
    }


def clock(run: Callable[[], object]) -> tuple[float, float, object]:
    """Wall seconds, CPU seconds, and what the run gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compare(index: VideoIndex, wanted: list[int], repeats: int) -> dict[str, object]:
    timings: dict[str, list[tuple[float, float]]] = {}
    sums = set()
    for _ in range(repeats):
        for name, read in variants(index, wanted).items():
            *seconds, total = clock(lambda read=read: sum(int(part.sum(dtype=torch.int64)) for part in read()))
            timings.setdefault(name, []).append(seconds)
            sums.add(total)
            print(f"{name}: {seconds[0]:.1f} s, CPU {seconds[1]:.1f} s", flush=True)
    rows = {name: rounded(taken) for name, taken in timings.items()}
    base, ours = (rows[name]["cpu_s"]["median"] for name in ("decord get_batch, 1 thread", "pyav, 1 thread"))
    return {
        "frames": len(wanted),
        "same_pixels_in_all": len(sums) == 1,
        "decord_over_pyav_cpu": round(base / ours, 2),
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
        "decord": version("decord"),
        "av": version("av"),
        "libavcodec of av": ".".join(map(str, av.library_versions["libavcodec"])),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    result: dict[str, object] = {"command": "python benchmarks/decoders.py", "repeats": repeats, "machine": machine()}
    path = make_file()
    index = read_index(str(path))
    opening = {
        "packet index (read_index)": lambda: read_index(str(path)),
        "decord open": lambda: DecordReader(index, 1).close(),
        "pyav open": lambda: PyAVReader(index, [0], 1).close(),
    }
    result |= {
        "file": {"bytes": path.stat().st_size, "frames": index.num_frames, "key_frames": len(index.key_stamps)},
        "opening": {name: rounded([clock(run)[:2] for _ in range(repeats)]) for name, run in opening.items()},
        "cases": {
            "128 of 18,000 frames, evenly": compare(
                index, np.linspace(0, index.num_frames - 1, 128).astype(int).tolist(), repeats
            ),
            "one frame a second of the first 2 minutes": compare(index, list(range(0, 3600, RATE)), repeats),
        },
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULTS)


if __name__ == "__main__":
    main()
