"""Training videos as the model will meet them: rendered, encoded as H.264, decoded, with what each patch shows."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lmms_kvtp.embedded import VERSION
from lmms_kvtp.embedded.draw import SHAPES, labels
from lmms_kvtp.embedded.encode import encode_bytes
from lmms_kvtp.embedded.script import PLACES, SIZE, Script, sampled_times, write_script

Array = npt.NDArray[np.generic]
BACKGROUND = len(SHAPES)
COVERED = 0.35
"""Share of a patch that a shape must cover to count as wholly there; thin shapes rarely cover more."""


@dataclass(frozen=True)
class Footage:
    """Sampled frames of many videos, end to end. Axes: F frames, s patches along an edge."""

    rgb: npt.NDArray[np.uint8]
    """[F, 96, 96, 3]"""
    shapes: npt.NDArray[np.int8]
    """Index in SHAPES of what covers most of each patch, BACKGROUND for nothing; [F, s, s]"""
    colors: npt.NDArray[np.int8]
    """Index in COLORS of that shape, -1 for nothing; [F, s, s]"""
    weights: npt.NDArray[np.float32]
    """How much of it is there, 0 to 1; [F, s, s]"""
    places: npt.NDArray[np.int8]
    """Index in PLACES; [F]"""
    starts: npt.NDArray[np.int64]
    """First frame of each video, and the end of the last one."""

    def present(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which (shape, color) pairs stand in each frame, [frames, shapes, colors]."""
        found = np.zeros((len(frames), len(SHAPES), 6), bool)
        for row, frame in enumerate(frames):
            there = (self.shapes[frame] != BACKGROUND) & (self.weights[frame] > 0.5)
            found[row, self.shapes[frame][there], self.colors[frame][there]] = True
        return found


def decode(content: bytes, wanted: list[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames number `wanted` (ascending) of an mp4 file, [H, W, 3]."""
    left = iter([*wanted, -1])
    following = next(left)
    with av.open(io.BytesIO(content), "r") as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == following:
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
                following = next(left)


def film(script: Script, side: int) -> dict[str, Array]:
    """One video's frames and labels."""
    times = sampled_times(script)
    rgb = np.stack(list(decode(encode_bytes(script), [round(time * script.fps) for time in times])))
    shots = [script.shot_at(time) for time in times]
    marks = [_patches(*labels(shot, time), side) for shot, time in zip(shots, times, strict=True)]
    shapes, colors, weights = (np.stack(parts) for parts in zip(*marks, strict=True))
    places = np.array([PLACES.index(shot.place) for shot in shots], np.int8)
    return {"rgb": rgb, "shapes": shapes, "colors": colors, "weights": weights, "places": places}


def load_footage(folder: Path, num_videos: int, side: int, workers: int | None = None) -> Footage:
    """Training videos 0 to `num_videos`, from `folder` if they are there, else filmed into it."""
    stamp = folder / "footage.json"
    wanted = {"version": VERSION, "scripts": _script_hash(num_videos), "videos": num_videos, "side": side}
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        _film_all(folder, num_videos, side, workers or os.cpu_count() or 1)
        stamp.write_text(json.dumps(wanted))
    return Footage(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in Footage.__annotations__})


def _script_hash(num_videos: int) -> str:
    """Of the first and last scripts: footage of other ones would teach wrong answers without any error."""
    told = repr([write_script(seed, "train") for seed in (0, num_videos - 1)])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _film_all(folder: Path, num_videos: int, side: int, workers: int) -> None:
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = pool.map(_film_train, range(num_videos), [side] * num_videos, chunksize=4)
        parts = list(tqdm(jobs, "render and encode", num_videos, unit="video"))
    for name in parts[0]:
        np.save(folder / f"{name}.npy", np.concatenate([part[name] for part in parts]))
    np.save(folder / "starts.npy", np.cumsum([0, *(len(part["places"]) for part in parts)]))


def _film_train(seed: int, side: int) -> dict[str, Array]:
    return film(write_script(seed, "train"), side)


def _patches(shapes: npt.NDArray[np.int8], colors: npt.NDArray[np.int8], side: int) -> tuple[Array, Array, Array]:
    size = SIZE // side

    def cut(pixels: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        return pixels.reshape(side, size, side, size).transpose(0, 2, 1, 3).reshape(side, side, size * size)

    cells, inks = cut(shapes), cut(colors)
    counts = (cells[..., None] == np.arange(len(SHAPES))).sum(-2)
    most = counts.max(-1)
    first = (cells == counts.argmax(-1)[..., None]).argmax(-1)
    color = np.take_along_axis(inks, first[..., None], -1)[..., 0]
    empty = most == 0
    shape = np.where(empty, BACKGROUND, counts.argmax(-1)).astype(np.int8)
    weight = np.minimum(1, most / (COVERED * size * size)).astype(np.float32)
    return shape, np.where(empty, -1, color).astype(np.int8), weight
