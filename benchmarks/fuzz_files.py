r"""Damaged video files by the thousand: each must end in frames or in one documented error, and not hang or crash.

    python benchmarks/fuzz_files.py --count 10000 --output benchmarks/results/fuzz_files.json

Clips in the containers that PyAV writes here are damaged: bits flipped, bytes zeroed, repeated or left out, the end
cut off, the beginning taken from another clip. A process of its own reads them with `video_decode_backend=auto`; if one
takes longer than --seconds, or ends that process, the next one goes on behind it. Prints the counts, and fails where
anything but frames or a `VideoError` came out.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

CLIPS = {
    "h264": ("libx264", "mp4 mov mkv avi asf flv ts nut h264 3gp"),
    "hevc": ("libx265", "mp4 mkv ts"),
    "mpeg4": ("mpeg4", "mp4 avi"),
    "mpeg2": ("mpeg2video", "mpg ts mxf vob"),
    "vp8": ("libvpx", "webm ivf"),
    "vp9": ("libvpx-vp9", "webm mp4 ivf"),
    "av1": ("libsvtav1", "mp4 webm ivf obu"),
    "wmv": ("wmv2", "wmv"),
    "still": ("mjpeg", "avi mov mjpeg"),
    "gif": ("gif", "gif"),
    "apng": ("apng", "apng"),
}
OPTIONS = {
    "libx264": {"x264-params": "keyint=8:min-keyint=8:scenecut=0:bframes=2:threads=1"},
    "libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1:keyint=8"},
    "mpeg4": {"bf": "2", "g": "8"},
    "mpeg2video": {"bf": "2", "g": "8"},
    "libvpx": {"auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "16"},
    "libvpx-vp9": {"auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "8"},
    "libsvtav1": {"preset": "13", "svtav1-params": "lp=1:keyint=8"},
}
FRAMES, WIDTH, HEIGHT = 16, 80, 64
HEAD = 4096
"""Bytes at the beginning that get half of the damage: what they say steers all the rest."""


def write_clips(folder: Path) -> list[Path]:
    """One clip for each codec and container that this PyAV has."""
    made = []
    for name, (codec, containers) in CLIPS.items():
        for container in containers.split() if codec in av.codecs_available else []:
            path = folder / f"{name}.{container}"
            try:
                _write(path, codec)
            except (av.FFmpegError, ValueError):  # this build writes no such file
                continue
            made.append(path)
    return made


def _write(path: Path, codec: str) -> None:
    kinds = [kind.name for kind in av.Codec(codec, "w").video_formats or []]
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options=OPTIONS.get(codec, {}))
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = next((kind for kind in ("yuvj420p", "yuv420p") if kind in kinds), kinds[0])
        for number in range(FRAMES):
            picture = np.full((HEIGHT, WIDTH, 3), 15 * number, dtype=np.uint8)
            picture[: 4 * number, ::3] = 255 - 15 * number
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def damaged(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """Damage a file in one or two ways."""
    for _ in range(dice.choice((1, 1, 2))):
        place = dice.randrange(min(len(data), HEAD) if dice.random() < 0.5 else len(data))
        length = min(dice.choice((1, 4, 40, 400)), len(data) - place)
        way = dice.choice(("flip", "flip", "field", "zero", "cut", "leave", "repeat", "splice"))
        if way == "flip":
            changed = bytearray(data)
            for _ in range(dice.choice((1, 3, 30))):
                changed[(place + dice.randrange(400)) % len(data)] ^= 1 << dice.randrange(8)
            data = bytes(changed)
        elif way == "splice":
            data = other[: min(place, len(other))] + data[place:]
        elif way == "cut":
            data = data[:place]
        else:
            middle = {"field": dice.randbytes(min(length, 4)), "zero": bytes(length), "leave": b"", "repeat": 0}[way]
            kept = data[place : place + length]
            data = data[:place] + (kept + kept if middle == 0 else middle) + data[place + max(1, length) :]
        if len(data) < 2:
            return data
    return data


def inputs(clips: list[Path], seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of damaged files, without end; each depends on its number alone."""
    whole = [path.read_bytes() for path in clips]
    for number in itertools.count():
        dice = random.Random(f"{seed} {number}")
        one = number % len(clips)
        yield f"{number:06d}{clips[one].suffix}", damaged(whole[one], dice.choice(whole), dice)


def serve(folder: Path, first: int, count: int, seed: int, seconds: float) -> None:
    """Read the inputs from number `first` on, and print a line of JSON for each; a hang ends the process."""
    from lmms_kvtp.video import FrameOptions, VideoError, load_video

    av.logging.set_level(None)
    options = FrameOptions(max_frames_num=8, force_sample=True)
    clips = sorted(folder.glob("clips/*"))
    for name, data in itertools.islice(inputs(clips, seed), first, count):
        path = folder / name
        path.write_bytes(data)
        begin, said = time.perf_counter(), ""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            video = load_video(path, options)
            read = sum(len(frames.rgb) for frames in video.chunks())
            result = "frames" if read == 8 and video.duration > 0 else f"{read} frames of {video.duration} s"
        except VideoError as error:
            result, said = "VideoError", str(error)
            if str(path) not in said or "\n" in said:
                result = f"a bad message: {said}"
        except Exception as error:  # what the benchmark looks for
            result = f"{type(error).__name__}: {error}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.unlink()
        row = {"name": name, "result": result, "seconds": time.perf_counter() - begin}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def run(folder: Path, count: int, seed: int, seconds: float) -> list[dict[str, object]]:
    """Read `count` damaged files in processes of their own; the last file of one that dies is kept in `folder`."""
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        command = [sys.executable, __file__, "--serve", str(folder), "--first", str(len(rows))]
        command += ["--count", str(count), "--seed", str(seed), "--seconds", str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout
            rows += [json.loads(line) for line in process.stdout]
        if len(rows) < count:
            kind = "hang" if process.returncode == -signal.SIGALRM else f"crash ({process.returncode})"
            rows.append({"name": str(len(rows)), "result": kind, "seconds": seconds})
    return rows


def main() -> int:
    """Print the counts; 1 where anything but frames or the documented error came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="limit for one file (default %(default)s)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.first, given.count, given.seed, given.seconds)
        return 0
    os.environ.setdefault("SVT_LOG", "0")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "clips").mkdir()
        clips = write_clips(Path(scratch) / "clips")
        rows = run(Path(scratch), given.count, given.seed, given.seconds)
    counts = Counter(str(row["result"]) for row in rows)
    held = {"command": f"python benchmarks/fuzz_files.py --count {given.count} --seed {given.seed}"}
    figures = {**held, "clips": [path.name for path in clips], "cores": os.cpu_count(), "results": dict(counts)}
    figures["slowest_seconds"] = round(max(float(str(row["seconds"])) for row in rows), 2)
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    return int(bool(set(counts) - {"frames", "VideoError"}))


if __name__ == "__main__":
    sys.exit(main())
