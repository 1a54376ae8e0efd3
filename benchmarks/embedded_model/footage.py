"""Training videos as the model will meet them: rendered, encoded as H.264, decoded; and their features."""

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from benchmarks.embedded_model.loop import FloatAttention, Log
from lmms_kvtp.embedded import VERSION
from lmms_kvtp.embedded.draw import SHAPES, encode_bytes, labels
from lmms_kvtp.embedded.script import PLACES, SIZE, Script, Shot, sampled_times, write_script

Array = npt.NDArray[np.generic]
Features = npt.NDArray[np.float16]
"""Features of all patches of the footage; [F, s, s, E]"""
BACKGROUND = len(SHAPES)
COVERED = 0.35
"""Share of a patch that a shape must cover to count as wholly there; thin shapes rarely cover more."""


@dataclass(frozen=True)
class Footage:
    """Sampled frames of many videos, end to end. Axes: F frames, s patches along an edge."""

    rgb: npt.NDArray[np.uint8]
    """Pixels of the frames; [F, 96, 96, 3]"""
    shapes: npt.NDArray[np.int8]
    """Index in SHAPES of what covers most of each patch, BACKGROUND for nothing; [F, s, s]"""
    colors: npt.NDArray[np.int8]
    """Index in COLORS of that shape, -1 for nothing; [F, s, s]"""
    weights: npt.NDArray[np.float32]
    """Share of that shape that the patch shows, 0 to 1; [F, s, s]"""
    places: npt.NDArray[np.int8]
    """Index in PLACES of each frame; [F]"""
    starts: npt.NDArray[np.int64]
    """Index of the first frame of each video, and the end of the last one."""

    def present(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Tell which (shape, color) pairs stand in each frame, [frames, shapes, colors]."""
        found = np.zeros((len(frames), len(SHAPES), 6), bool)
        for row, frame in enumerate(frames):
            there = (self.shapes[frame] != BACKGROUND) & (self.weights[frame] > 0.5)
            found[row, self.shapes[frame][there], self.colors[frame][there]] = True
        return found


def load_footage(folder: Path, num_videos: int, side: int) -> Footage:
    """Read training videos 0 to `num_videos` from `folder`; where they are not there, film them into it."""
    stamp = folder / "footage.json"
    told = repr([write_script(seed, "train") for seed in (0, num_videos - 1)])  # other scripts have other answers
    scripts = hashlib.sha256(told.encode()).hexdigest()[:16]
    wanted = {"version": VERSION, "scripts": scripts, "videos": num_videos, "side": side}
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            scripts_of = (write_script(seed, "train") for seed in range(num_videos))
            jobs = pool.map(film, scripts_of, repeat(side), chunksize=4)
            parts = list(tqdm(jobs, "render and encode", num_videos, unit="video"))
        for name in parts[0]:
            np.save(folder / f"{name}.npy", np.concatenate([part[name] for part in parts]))
        np.save(folder / "starts.npy", np.cumsum([0, *(len(part["places"]) for part in parts)]))
        stamp.write_text(json.dumps(wanted))
    return Footage(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in Footage.__annotations__})


def film(script: Script, side: int) -> dict[str, Array]:
    """Make one video's frames and labels."""
    times = sampled_times(script)
    sampled = {round(time * script.fps) for time in times}
    with av.open(io.BytesIO(encode_bytes(script)), "r") as container:
        shown = [frame for index, frame in enumerate(container.decode(video=0)) if index in sampled]
        rgb = np.stack([frame.to_ndarray(format="rgb24") for frame in shown])
    shots = [script.shot_at(time) for time in times]
    marks = [_patches(*labels(shot, time), side) for shot, time in zip(shots, times, strict=True)]
    shapes, colors, weights = (np.stack(parts) for parts in zip(*marks, strict=True))
    places = np.array([PLACES.index(shot.place) for shot in shots], np.int8)
    return {"rgb": rgb, "shapes": shapes, "colors": colors, "weights": weights, "places": places}


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


@dataclass(frozen=True)
class Excerpt:
    """Some frames of a training video, and the script that they tell."""

    frames: list[int]
    """Indices of the frames among the video's sampled ones."""
    script: Script


def whole(video: int) -> Excerpt:
    """Show the video as it is."""
    script = write_script(video, "train")
    return Excerpt(list(range(len(sampled_times(script)))), script)


def shorten(video: int, num_frames: int, rng: np.random.Generator) -> Excerpt:
    """Choose about `num_frames` frames of a training video, as a script at one frame a second; `rng` draws which stay.

    Shots next to an event stay, so that order questions keep their answers; of other shots some go. There are exactly
    as many frames whenever the video has them and its events leave room.
    """
    script = write_script(video, "train")
    shot_of = np.array([script.shots.index(script.shot_at(time)) for time in sampled_times(script)])
    last = len(script.shots) - 1
    events = [index for index, shot in enumerate(script.shots) if shot.event is not None]
    needed = {0, last, *(index + beside for index in events for beside in (-1, 0, 1))}
    counts = np.zeros(last + 1, int)
    counts[sorted(needed & set(shot_of.tolist()))] = 1
    capacity = np.bincount(shot_of, minlength=last + 1)
    wanted = min(num_frames, len(shot_of))
    while counts.sum() < wanted:
        which = int(rng.integers(last + 1))
        more = min(int(rng.integers(1, 4)), int(capacity[which] - counts[which]), int(wanted - counts.sum()))
        counts[which] += max(more, 0)
    frames: list[int] = []
    shots: list[Shot] = []
    for index, count in enumerate(counts.tolist()):
        if count:
            own = np.flatnonzero(shot_of == index)
            first = int(own[rng.integers(len(own) - count + 1)])
            shots.append(replace(script.shots[index], start=float(len(frames)), end=float(len(frames) + count)))
            frames += range(first, first + count)
    key = f"reel-{video}-{rng.integers(2**31)}"
    return Excerpt(frames, Script(key, video, 1.0, float(len(frames)), tuple(shots)))


def normalise(rgb: UInt8[Tensor, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
    """Make pixels in -1 to 1, as SigLIP's processor does."""
    return rgb.permute(0, 3, 1, 2).float() / 127.5 - 1


@contextmanager
def inputs_of_last_layer(tower: Any) -> Iterator[list[Any]]:
    """Collect what a tower's last layer reads; transformers < 5 returns it from a tower that stands alone only."""
    found: list[Tensor] = []
    *_, before, _ = tower.encoder.layers
    hook = before.register_forward_hook(lambda *call: found.append(call[-1]))
    try:
        yield found
    finally:
        hook.remove()


@torch.no_grad()
def tower_features(
    tower: Any, rgb: UInt8[Tensor, "b H W 3"], device: torch.device, exact: bool = False
) -> Float[Tensor, "b s s E"]:
    """Compute hidden states before the tower's last layer, which LLaVA-Video reads; `exact` for float32 throughout."""
    pixels = normalise(rgb).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=not exact)
    with autocast, FloatAttention(), inputs_of_last_layer(tower) as given:
        tower(pixels)
    [hidden] = given
    side = round(hidden.shape[1] ** 0.5)
    features: Tensor = hidden.float().unflatten(1, (side, side))
    return features


def load_bank(folder: Path, footage: Footage, tower: Any, device: torch.device, log: Log, stamp: str) -> Features:
    """Read the features of all footage from `folder`, or make them where `stamp` names another tower than theirs."""
    batch = 256
    path, note = folder / "features.npy", folder / "features.json"
    shape = (*footage.shapes.shape, tower.config.hidden_size)
    wanted = {"tower": stamp, "shape": list(shape)}
    if not note.exists() or json.loads(note.read_text()) != wanted:
        note.unlink(missing_ok=True)
        bank = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for index in log.steps("bank", -(-shape[0] // batch)):
            rows = slice(index * batch, (index + 1) * batch)
            rgb = torch.from_numpy(np.array(footage.rgb[rows]))
            bank[rows] = tower_features(tower, rgb, device).half().cpu().numpy()
        bank.flush()
        note.write_text(json.dumps(wanted))
    loaded: Features = np.load(path, mmap_mode="r")
    return loaded
