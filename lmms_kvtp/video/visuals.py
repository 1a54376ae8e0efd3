"""The harness's visuals as videos, or as images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.frames import Picture, Video
from lmms_kvtp.video.images import MemoryReader
from lmms_kvtp.video.load import FOLDER_FPS, IMAGE_SUFFIXES, image_files, load_video, video_from_frames
from lmms_kvtp.video.sampling import FrameOptions


def to_videos(visuals: Sequence[Any], name: str, options: FrameOptions, cache: FrameCache | None = None) -> list[Video]:
    """Make videos of visuals: of each path of a video; of images, image files or a folder of these, one video.

    Videos in memory stay as they are.

    Args:
        visuals: as a task gives them.
        name: of a video made of images in memory.
        options: which frames.
        cache: keeps resized frames of video files on disk.

    Raises:
        VideoError: a video cannot be read.
        ValueError: visuals are of several kinds, or of one that is no video.
    """
    fps = 1.0
    if all(isinstance(visual, Video) for visual in visuals):
        return list(visuals)
    if len(visuals) == 1 and isinstance(visuals[0], str) and Path(visuals[0]).is_dir():
        visuals, fps = image_files(visuals[0]), FOLDER_FPS
    kinds = {_kind(visual) for visual in visuals}
    if kinds <= {"video"}:
        return [load_video(path, options, cache) for path in visuals]
    if len(kinds) > 1 or not kinds <= {"image", "image file"}:
        raise ValueError(f"{name} has visuals of kind {', '.join(sorted(kinds))}; wanted only videos, or only images")
    if kinds == {"image file"}:
        name = f"{Path(visuals[0]).parent.name}/{Path(visuals[0]).stem}"  # the same wherever the data set lies
    few = replace(options, max_frames_num=min(len(visuals), options.max_frames_num), force_sample=True)
    return [video_from_frames(list(visuals), name, fps=fps, options=few)]


def to_pictures(visuals: Sequence[Any], name: str) -> list[Picture]:
    """The images of a question; none where its visuals are videos, folders of frames, or of several kinds.

    Raises:
        VideoError: an image file cannot be read.
    """
    if not are_images(visuals):
        return []
    pictures = [MemoryReader([visual], name).read([0])[0] for visual in visuals]
    return [Picture(f"{name} {place}", rgb, len(pictures) == 1) for place, rgb in enumerate(pictures)]


def are_images(visuals: Sequence[Any]) -> bool:
    """All of them are images or image files; so are none at all."""
    return {_kind(visual) for visual in visuals} <= {"image", "image file"}


def _kind(visual: Any) -> str:
    if isinstance(visual, Image):
        return "image"
    if not isinstance(visual, str):
        return type(visual).__name__
    return "image file" if visual.lower().endswith(IMAGE_SUFFIXES) else "video"
