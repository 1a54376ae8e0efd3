"""From a file, a folder of frames or images to a video whose frames are read a bounded number at a time."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageSequence
from torch import Tensor

from lmms_kvtp.types import Timing
from lmms_kvtp.video.cache import FrameCache, Shelf
from lmms_kvtp.video.frames import Frames, VideoError
from lmms_kvtp.video.index import read_index
from lmms_kvtp.video.open import open_reader
from lmms_kvtp.video.pixels import Shrink, resize
from lmms_kvtp.video.reader import CHUNK_BYTES, Images, MemoryReader, Reader
from lmms_kvtp.video.sampling import FrameOptions, sample, time_instruction

FOLDER_FPS = 3.0
"""Frames per second of video in a folder of image files: those of MVBench, as in the harness's own wrapper."""
_MOST = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts")
VIDEO_SUFFIXES = (*_MOST, ".flv", ".wmv", ".3gp", ".ogv", ".m2ts", ".mts", ".vob")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ANIMATED = {"GIF": ".gif", "WEBP": ".webp", "PNG": ".png"}
"""Image formats that may move, and are videos then."""


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

        Frames that are kept on disk are decoded only when they are asked for as they are in the video. A chunk ends
        before a frame of another size, and before CHUNK_BYTES are exceeded. VideoError where a frame cannot be read.
        """
        start = 0
        with ExitStack() as stack:
            reader = cache(lambda: stack.enter_context(closing(self.open())))  # once, and only if frames are wanted
            while start < len(self.indices):
                held = [self._decode(slice(start, start + self.chunk_size), reader)]
                start += len(held[0].times)
                yield held.pop()  # they go when whoever asked for them lets go of them

    def _decode(self, part: slice, reader: Callable[[], Reader]) -> Frames:
        indices = self.indices[part].tolist()
        if self.shelf is not None and self.shelf.has(indices, self.fast):
            return Frames(partial(self.read, part), self.times[part], shrink=self.shrink(part))
        opened = reader()
        before = opened.patched
        rgb = opened.read(indices)
        part, patched = slice(part.start, part.start + len(rgb)), opened.patched - before
        return Frames(rgb, self.times[part], shrink=self.shrink(part, patched), patched=patched)

    def read(self, part: slice) -> UInt8[Tensor, "t H W 3"]:
        """Decode some of the frames with a reader of their own; raises as `chunks`."""
        with closing(self.open()) as reader:
            rgb = reader.read(self.indices[part].tolist())
        if len(rgb) < len(self.indices[part]):
            raise VideoError(
                f"cannot read video {self.source} from a cache: its frames change size; set no frame_cache"
            )
        return rgb

    def shrink(self, part: slice, patched: int = 0) -> Shrink:
        """How the frames of `part` are resized; patched ones are not kept, since in a cache nobody counts them."""
        if self.shelf is None or patched:
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
    if index.seconds is not None:
        times = torch.from_numpy(index.seconds)[indices]
    options = replace(options, chunk_size=max(1, min(options.chunk_size, CHUNK_BYTES // max(1, index.frame_bytes))))
    opener = partial(open_reader, index, indices.tolist(), options)
    shelf = cache.shelf(path, options.backend) if cache else None
    timing = Timing(tuple(indices.tolist()), index.num_frames, index.avg_fps)
    duration = index.num_frames / index.avg_fps
    return _video(path, Path(path).stem, timing, times, duration, options, opener, shelf)


def image_files(folder: str | PathLike[str]) -> list[str]:
    """List the image files of a folder by their numbers, so that frame 10 comes behind frame 9, without hidden files.

    Numbers with a point are seconds, unless they are counters, as in frame1.9 and frame1.10. VideoError where there
    is no image file.
    """
    found = [path for path in Path(folder).iterdir() if is_frame(path)]
    if not found:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise VideoError(f"cannot read video {fspath(folder)}: it is a folder without image files ({kinds})")
    decimals = [decimal for path in found for decimal in re.findall(r"\d\.(\d+)", path.stem)]
    are_counters = len(set(map(len, decimals))) > 1 and any(re.fullmatch(r"\d+0", decimal) for decimal in decimals)
    number = re.compile(r"(\d+)" if are_counters else r"(\d+(?:\.\d+)?)")
    return sorted(map(str, found), key=lambda path: _numbered(Path(path).name, number))


def is_frame(path: Path) -> bool:
    """Whether a file of a folder is one of its frames; hidden ones, which systems leave everywhere, are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_video(path: Path) -> bool:
    """Whether a file or folder found in another is a video: by its name, as an image that moves, or by its frames."""
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(is_frame(file) and not _moves(file) for file in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES or _moves(path)


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
    kinds, fps = {_kind(visual) for visual in visuals}, 1.0
    if len(visuals) == 1 and isinstance(visuals[0], str) and Path(visuals[0]).is_dir():
        visuals, kinds, fps = image_files(visuals[0]), {"image file"}, FOLDER_FPS
    if kinds <= {"video"}:
        return [load_video(path, options, cache) for path in visuals]
    if kinds == {"animation"}:
        return [_animation(image, name, options) for image in visuals]
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


def _numbered(name: str, number: re.Pattern[str]) -> list[tuple[Decimal | int, str]]:
    return [(Decimal(part), "") if number.fullmatch(part) else (-1, part) for part in number.split(name)]


def _same(reader: Reader) -> Reader:
    return reader


def _kind(visual: Any) -> str:
    if isinstance(visual, Image.Image):
        return "animation" if _moves(visual) else "image"
    if not isinstance(visual, str):
        return type(visual).__name__
    return "image file" if visual.lower().endswith(IMAGE_SUFFIXES) and not _moves(Path(visual)) else "video"


def _moves(image: Image.Image | Path) -> bool:
    """Whether an image, or an image file, is an animation."""
    if isinstance(image, Image.Image):
        return image.format in ANIMATED and getattr(image, "is_animated", False)
    if image.suffix.lower() not in ANIMATED.values():
        return False
    try:
        with Image.open(image) as opened:
            return _moves(opened)
    except (OSError, Image.DecompressionBombError):  # an error where it is read
        return False


def _animation(image: Image.Image, name: str, options: FrameOptions) -> SampledVideo:
    frames = [(frame.convert("RGB"), frame.info.get("duration") or 100) for frame in ImageSequence.Iterator(image)]
    pictures, milliseconds = zip(*frames, strict=True)
    return video_from_frames(pictures, name, 1000 * len(frames) / sum(milliseconds), options=options)
