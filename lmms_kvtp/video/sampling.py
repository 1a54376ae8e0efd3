"""Which frames of a video the model sees: LLaVA-Video's rule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.video.frames import VideoError


@dataclass(frozen=True)
class FrameOptions:
    """Which frames of a video the model sees, and how they are read."""

    max_frames_num: int = 128
    """Frames at most; longer videos are sampled evenly."""
    fps: float = 1.0
    """Frames per second of video, as long as they are not more than `max_frames_num`."""
    force_sample: bool = False
    """Always take `max_frames_num` frames, evenly; a shorter video repeats some."""
    add_time_instruction: bool = False
    """Tell the model the length of the video and the second of each frame."""
    backend: Literal["auto", "decord", "pyav"] = "auto"
    """auto: PyAV, and decord for damaged frames, which it hands out as its codec patches them."""
    chunk_size: int = 16
    """Decoded frames that stand in memory at a time."""
    num_threads: int = 1
    """Threads that decode; 0: one for each core, which is up to a fifth more work and pays where cores stand idle."""
    preprocess: Literal["exact", "fast"] = "exact"
    """fast: resize with torch instead of Pillow, about 8 times as fast; some bytes then differ by 1 (docs/video.md)."""

    def __post_init__(self) -> None:
        """Refuse settings that ask for nothing.

        Raises:
            ValueError: a count or rate is not positive.
        """
        for name in ("max_frames_num", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; ask for at least one frame")
        if self.num_threads < 0:
            raise ValueError(f"num_threads={self.num_threads} is below 0; give a number of threads, or 0 for all cores")
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps={self.fps} is not a positive number; give frames per second of video, such as 1")


def sample(num_frames: int, avg_fps: float, options: FrameOptions) -> tuple[Int[Tensor, " T"], Float[Tensor, " T"]]:
    """Choose frames by LLaVA-Video's rule: every `stride`-th frame, or evenly spread ones where these are too many.

    The stride is avg_fps / options.fps, rounded half to even. Strided frames get index / stride as their second, as in
    LLaVA-Video, which is the true time only where avg_fps equals the stride; spread frames get index / avg_fps.

    Source: the `llava_vid` wrapper of lmms-eval 0.7, which KVTP's release shares. That rule has no answer for videos
    below half of `options.fps` (a stride of 0), not even with `force_sample`; here `force_sample` reads these.

    Args:
        num_frames: frames in the video.
        avg_fps: frames per second of the video.
        options: rate, maximum and `force_sample`.

    Returns:
        Indices in ascending order, and seconds in float64.

    Raises:
        VideoError: no frames, no frame rate, or a stride of 0.
    """
    if num_frames < 1:
        raise VideoError(f"no frames to sample ({num_frames})")
    if not (avg_fps > 0 and math.isfinite(avg_fps)):
        raise VideoError(f"no frame rate ({avg_fps}), so its frames have no time")
    if options.force_sample:
        return _spread(num_frames, avg_fps, options.max_frames_num)
    stride = round(avg_fps / options.fps)
    if stride == 0:
        raise VideoError(
            f"{avg_fps:g} frames per second are too few to take fps={options.fps:g} of them: the stride, "
            f"{avg_fps:g} / {options.fps:g}, rounds to 0; set force_sample=true, or fps below {2 * avg_fps:g}"
        )
    indices = torch.arange(0, num_frames, stride)
    if len(indices) > options.max_frames_num:
        return _spread(num_frames, avg_fps, options.max_frames_num)
    return indices, indices.double() / stride


def time_instruction(times: Sequence[float], duration: float) -> str:
    """Write LLaVA-Video's sentence on when the frames were taken; it lacks a space, as in its training data."""
    seconds = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
        f"These frames are located at {seconds}.Please answer the following questions related to this video."
    )


def _spread(num_frames: int, avg_fps: float, count: int) -> tuple[Int[Tensor, " T"], Float[Tensor, " T"]]:
    indices = torch.from_numpy(np.linspace(0, num_frames - 1, count).astype(np.int64))  # rounded down
    return indices, indices.double() / avg_fps
