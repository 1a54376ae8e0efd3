"""From a file, a folder of frames or images to a video whose frames are read a bounded number at a time."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from lmms_kvtp.types import Timing
from lmms_kvtp.video.cache import FrameCache, Shelf
from lmms_kvtp.video.frames import Frames, VideoError
from lmms_kvtp.video.index import read_index
from lmms_kvtp.video.open import open_reader
from lmms_kvtp.video.pixels import Shrink, resize
from lmms_kvtp.video.reader import Images, LateReader, MemoryReader, Reader
from lmms_kvtp.video.sampling import FrameOptions, sample, time_instruction

FOLDER_FPS = 3.0
"""Frames per second of video in a folder of image files: those of MVBench, as in the harness's own wrapper."""
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class SampledVideo:
    """Implements `frames.Video`. Holds no pixels and no open file, so that it can go to another process."""

    source: str
    """Path of the file, or the key where frames came from memory."""
    key: str
    indices: Int[Tensor, " T"]
    """Indices of the sampled frames in the file."""
    times: Float[Tensor, " T"]
    """Seconds of the sampled frames."""
    duration: float
    """Seconds of the whole video."""
    instruction: str
    timing: Timing
    chunk_size: int
    """Frames that stand in memory at a time."""
    open: Callable[[], Reader] = field(repr=False)
    fast: bool = False
    """Whether frames are resized by torch: see `PixelSpec.resize`."""
    shelf: Shelf | None = None
    """Resized frames on disk."""

    def chunks(self) -> Iterator[Frames]:
        """Decode the frames, at most `chunk_size` at a time; each call starts from the beginning.

        Frames that are kept on disk are decoded only when they are asked for as they are in the video.

        Raises:
            VideoError: a frame cannot be read; the message has path and cause.
        """
        with closing(LateReader(self.open)) as reader:
            for start in range(0, len(self.indices), self.chunk_size):
                part = slice(start, start + self.chunk_size)
                # no name here for the frames: they go when whoever asked for them lets go of them
                yield Frames(self._decode(part, reader), self.times[part], shrink=self.shrink(part))

    def _decode(self, part: slice, reader: Reader) -> UInt8[Tensor, "t H W 3"] | Callable[[], Tensor]:
        indices = self.indices[part].tolist()
        if self.shelf is not None and self.shelf.has(indices, self.fast):
            return partial(self.read, part)
        return reader.read(indices)

    def read(self, part: slice) -> UInt8[Tensor, "t H W 3"]:
        """Decode some of the frames with a reader of their own; raises as `chunks`."""
        with closing(self.open()) as reader:
            return reader.read(self.indices[part].tolist())

    def shrink(self, part: slice) -> Shrink:
        """How the frames of `part` are resized."""
        if self.shelf is None:
            return partial(resize, fast=self.fast)
        return partial(self.shelf.shrink, indices=self.indices[part].tolist(), fast=self.fast)


def load_video(
    source: str | PathLike[str], options: FrameOptions | None = None, cache: FrameCache | None = None
) -> SampledVideo:
    """Choose the frames of a video file, or of a folder of image files; nothing is decoded yet.

    The key is the file's name without folder and extension: the same wherever the data set lies.

    Args:
        source: a file, or a folder whose image files are `FOLDER_FPS` frames a second.
        options: which frames are chosen, and how they are read.
        cache: keeps the resized frames of files on disk.

    Raises:
        VideoError: no such file, no video in it, a part of it is missing, or no frame can be chosen.
    """
    options = options or FrameOptions()
    path = fspath(source)
    if Path(path).is_dir():
        return video_from_frames(image_files(path), Path(path).name, FOLDER_FPS, options=options)
    index = read_index(path)
    indices, times = _choose(path, index.num_frames, index.avg_fps, options)
    opener = partial(open_reader, index, indices.tolist(), options)
    shelf = cache.shelf(path, options.backend) if cache else None
    timing = Timing(tuple(indices.tolist()), index.num_frames, index.avg_fps)
    duration = index.num_frames / index.avg_fps
    return _video(path, Path(path).stem, timing, times, duration, options, opener, shelf)


def image_files(folder: str | PathLike[str]) -> list[str]:
    """List the image files of a folder by their numbers, so that frame 10 comes behind frame 9.

    Raises:
        VideoError: there is none.
    """
    found = [str(path) for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise VideoError(f"cannot read video {fspath(folder)}: it is a folder without image files ({kinds})")
    return sorted(found, key=_numbered)


def video_from_frames(
    frames: Images,
    key: str,
    fps: float = 1.0,
    times: Sequence[float] | None = None,
    options: FrameOptions | None = None,
) -> SampledVideo:
    """Make a video of frames in memory, or of image files, which are read as they are needed.

    Args:
        frames: uint8 of shape [T, H, W, 3], as tensor or array, or a list of images or image files in order.
        key: a name for the video that is the same on all machines.
        fps: frames per second of video.
        times: the second of each frame; None where they follow from `fps`.
        options: which of the frames are chosen; None for all of them.

    Raises:
        VideoError: there are no frames, or they are not uint8 RGB.
        ValueError: `times` has another length than `frames`.
    """
    reader = MemoryReader(frames, key)
    options = options or FrameOptions(max_frames_num=len(reader), force_sample=True)
    indices, seconds = _choose(key, len(reader), fps, options)
    duration = len(reader) / fps
    if times is not None:
        if len(times) != len(reader):
            raise ValueError(f"{len(times)} times for the {len(reader)} frames of {key}; give one for each frame")
        seconds = torch.tensor(times, dtype=torch.float64)[indices]
        duration = times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1)  # the last lasts as long as the others
        fps = len(reader) / duration if duration > 0 else fps
    timing = Timing(tuple(indices.tolist()), len(reader), fps)
    return _video(key, key, timing, seconds, duration, options, partial(_same, reader))


def to_videos(
    visuals: Sequence[Any], name: str, options: FrameOptions, cache: FrameCache | None = None
) -> list[SampledVideo]:
    """Turn the visuals of a question into videos: one for each video path, or a single one whose frames are all images.

    Args:
        visuals: as a task gives them.
        name: the key of a video made of images in memory.
        options: which frames are chosen.
        cache: keeps resized frames of video files on disk.

    Raises:
        VideoError: a video cannot be read.
        ValueError: visuals are of several kinds, or of one that is no video.
    """
    fps = 1.0
    if len(visuals) == 1 and isinstance(visuals[0], str) and Path(visuals[0]).is_dir():
        visuals, fps = image_files(visuals[0]), FOLDER_FPS
    kinds = {_kind(visual) for visual in visuals}
    if kinds <= {"video"}:
        return [load_video(path, options, cache) for path in visuals]
    if len(kinds) > 1 or not kinds <= {"image", "image file"}:
        raise ValueError(f"{name} has visuals of kind {', '.join(sorted(kinds))}; wanted only videos, or only images")
    if kinds == {"image file"}:
        name = f"{Path(visuals[0]).parent.name}/{Path(visuals[0]).stem}"  # the same wherever the data set lies
    every = options.rule == "llava_video"  # the other rules take as many as they may
    few = replace(options, max_frames_num=min(len(visuals), options.max_frames_num), force_sample=every)
    return [video_from_frames(list(visuals), name, fps=fps, options=few)]


def are_images(visuals: Sequence[Any]) -> bool:
    """Whether all visuals are images or image files; true for none."""
    return {_kind(visual) for visual in visuals} <= {"image", "image file"}


def _choose(
    source: str, num_frames: int, avg_fps: float, options: FrameOptions
) -> tuple[Int[Tensor, " T"], Float[Tensor, " T"]]:
    try:
        return sample(num_frames, avg_fps, options)
    except VideoError as error:
        raise VideoError(f"cannot sample video {source}: {error}") from error


def _video(
    source: str,
    key: str,
    timing: Timing,
    times: Float[Tensor, " T"],
    duration: float,
    options: FrameOptions,
    opener: Callable[[], Reader],
    shelf: Shelf | None = None,
) -> SampledVideo:
    return SampledVideo(
        source=source,
        key=key,
        indices=torch.tensor(timing.indices, dtype=torch.long),
        times=times.float(),
        duration=duration,
        instruction=time_instruction(times.tolist(), duration) if options.add_time_instruction else "",
        timing=timing,
        chunk_size=options.chunk_size,
        open=opener,
        fast=options.preprocess == "fast",
        shelf=shelf,
    )


def _numbered(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def _same(reader: Reader) -> Reader:
    return reader


def _kind(visual: Any) -> str:
    if isinstance(visual, Image.Image):
        return "image"
    if not isinstance(visual, str):
        return type(visual).__name__
    return "image file" if visual.lower().endswith(IMAGE_SUFFIXES) else "video"
