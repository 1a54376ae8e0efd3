"""Which frames of a video the model sees: the rules of LLaVA-Video, of the Qwen-VL families, and of InternVL."""

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
    fps: float | None = 1.0
    """Frames per second of video, as long as they are not more than `max_frames_num`; None: `max_frames_num` in all,
    which LLaVA-Video's rule has no word for."""
    force_sample: bool = False
    """Always take `max_frames_num` frames, evenly; a shorter video repeats some."""
    phase: float = 0.0
    """Where between two sampled frames the first one lies, in [0, 1); LLaVA-Video's own rule begins with frame 0.
    Another phase asks how far answers hang on which of nearly equal frames are seen; a last frame stays the last."""
    add_time_instruction: bool = False
    """Tell the model the length of the video and the second of each frame."""
    rule: Literal["llava_video", "qwen2_5_vl", "qwen3_vl", "internvl"] = "llava_video"
    """The model family whose stock wrapper chooses frames; set by the checkpoint."""
    backend: Literal["auto", "decord", "pyav"] = "auto"
    """auto: PyAV, and decord for damaged frames, which it hands out as its codec patches them."""
    chunk_size: int = 16
    """Decoded frames that stand in memory at a time."""
    num_threads: int = 1
    """Threads that decode; 0: one for each core, which is up to a fifth more work and pays where cores stand idle."""
    preprocess: Literal["exact", "fast"] = "exact"
    """fast: resize with torch instead of Pillow, about 8 times as fast; some bytes then differ by 1 (docs/video.md)."""

    def __post_init__(self) -> None:
        """Refuse settings that ask for nothing. Raises ValueError if a count or rate is not positive."""
        for name in ("max_frames_num", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; ask for at least one frame")
        if self.num_threads < 0:
            raise ValueError(f"num_threads={self.num_threads} is below 0; give a number of threads, or 0 for all cores")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps={self.fps} is not a positive number; give frames per second of video, such as 1")
        if not 0 <= self.phase < 1:
            raise ValueError(f"phase={self.phase:g} is not in [0, 1); give a share of the step from frame to frame")
        if self.rule == "llava_video":
            if self.fps is None:
                raise ValueError("fps=none: LLaVA-Video's rule wants frames per second of video, such as 1")
        elif self.force_sample or self.add_time_instruction or self.phase:
            raise ValueError(f"force_sample, add_time_instruction and phase are LLaVA-Video's; {self.rule} has none")
        elif self.rule == "internvl" and self.fps is not None:
            raise ValueError(f"fps={self.fps}: the stock wrapper of InternVL ignores it; set max_frames_num alone")


def sample(num_frames: int, avg_fps: float, options: FrameOptions) -> tuple[Int[Tensor, " T"], Float[Tensor, " T"]]:
    """Choose frames by the rule of the model's family.

    LLaVA-Video's is: every `stride`-th frame, or evenly spread ones where these are too many.

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
        VideoError: no frames, no frame rate, a stride of 0, or fewer frames than a step of the model holds.
    """
    if num_frames < 1:
        raise VideoError(f"no frames to sample ({num_frames})")
    if not (avg_fps > 0 and math.isfinite(avg_fps)):
        raise VideoError(f"no frame rate ({avg_fps}), so its frames have no time")
    if options.rule != "llava_video":
        indices = _middles(num_frames, options) if options.rule == "internvl" else _pairs(num_frames, avg_fps, options)
        return indices, indices.double() / avg_fps
    assert options.fps is not None
    if options.force_sample:
        return _spread(num_frames, avg_fps, options)
    stride = round(avg_fps / options.fps)
    if stride == 0:
        raise VideoError(
            f"{avg_fps:g} frames per second are too few to take fps={options.fps:g} of them: the stride, "
            f"{avg_fps:g} / {options.fps:g}, rounds to 0; set force_sample=true, or fps below {2 * avg_fps:g}"
        )
    if len(range(0, num_frames, stride)) > options.max_frames_num:
        return _spread(num_frames, avg_fps, options)
    indices = torch.arange(min(int(options.phase * stride), num_frames - 1), num_frames, stride)
    return indices, indices.double() / stride


def _pairs(num_frames: int, avg_fps: float, options: FrameOptions) -> Int[Tensor, " T"]:
    """An even number of frames, spread as qwen-vl-utils does; with a rate, from 4 to 768 of Qwen2.5-VL."""
    if num_frames < 2:
        raise VideoError(f"{num_frames} frame, and a step of this model is 2; leave the video out")
    wanted = options.max_frames_num if options.rule == "qwen2_5_vl" else 2 * round(options.max_frames_num / 2)
    count = min(wanted, num_frames)
    if options.fps is not None:
        most = min(768 if options.rule == "qwen2_5_vl" else options.max_frames_num, num_frames) // 2 * 2
        count = int(min(max(num_frames / avg_fps * options.fps, 4), most, num_frames))
    return torch.linspace(0, num_frames - 1, max(2, count // 2 * 2)).round().long()


def _middles(num_frames: int, options: FrameOptions) -> Int[Tensor, " T"]:
    """The middle frames of equal parts, as InternVL's processor takes them."""
    stride = num_frames / min(options.max_frames_num, num_frames)
    return torch.arange(stride / 2, num_frames, stride).long()


def time_instruction(times: Sequence[float], duration: float) -> str:
    """Write LLaVA-Video's sentence on when the frames were taken; it lacks a space, as in its training data."""
    seconds = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {duration:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
        f"These frames are located at {seconds}.Please answer the following questions related to this video."
    )


def _spread(num_frames: int, avg_fps: float, options: FrameOptions) -> tuple[Int[Tensor, " T"], Float[Tensor, " T"]]:
    count, last = options.max_frames_num, num_frames - 1
    shift = options.phase * last / max(1, count - 1)
    indices = torch.from_numpy(np.minimum(np.linspace(0, last, count) + shift, last).astype(np.int64))  # rounded down
    return indices, indices.double() / avg_fps
