"""The harness's visuals as videos."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmms_kvtp.sampling import FrameOptions
from lmms_kvtp.types import Video
from lmms_kvtp.video import load_video, video_from_frames

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def to_videos(visuals: Sequence[Any], name: str, options: FrameOptions) -> list[Video]:
    """Each path of a video is a video; images, image files and folders of such files are the frames of one.

    Args:
        visuals: as a task gives them.
        name: of a video made of images in memory.
        options: which frames.

    Raises:
        VideoError: a video cannot be read.
        ValueError: videos and images are mixed.
    """
    if len(visuals) == 1 and isinstance(visuals[0], str) and Path(visuals[0]).is_dir():
        visuals = sorted(str(path) for path in Path(visuals[0]).iterdir() if path.suffix.lower() in IMAGES)
    images = [not isinstance(visual, str) or visual.lower().endswith(IMAGES) for visual in visuals]
    if not any(images):
        return [load_video(path, options) for path in visuals]
    if not all(images):
        raise ValueError(f"{name}: a question on videos and images at once cannot be answered")
    if isinstance(visuals[0], str):
        name = f"{Path(visuals[0]).parent.name}/{Path(visuals[0]).stem}"  # the same wherever the data set lies
    few = replace(options, max_frames_num=min(len(visuals), options.max_frames_num), force_sample=True)
    return [video_from_frames(list(visuals), name, options=few)]
