"""Step 1: the sampled frames of a video, and its clips."""

import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from lmms_kvtp.files import content_key, fingerprint
from lmms_kvtp.skvqa.entry import CLIP_SIZE, clip_bounds
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.video.frames import Frames, VideoError
from lmms_kvtp.video.load import SampledVideo, image_files, load_video
from lmms_kvtp.video.sampling import FrameOptions


@dataclass(frozen=True)
class Clips:
    """A sampled video, without its pixels."""

    path: Path
    key: str
    """Hash of the file's content and of which frames are sampled."""
    num_frames: int
    duration: float
    times: tuple[float, ...]
    """Seconds of the frames."""
    options: FrameOptions
    clip_size: int

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """First and last frame of each clip."""
        return clip_bounds(self.num_frames, self.clip_size)

    @property
    def edges(self) -> tuple[tuple[float, float], ...]:
        """Start and end of each clip in seconds: it ends where the next begins, the last with the video."""
        starts = [self.times[first] for first, _ in self.bounds]
        ends = [*starts[1:], max(self.duration, self.times[-1])]
        return tuple(zip(starts, ends, strict=True))

    def frames(self, clip: int) -> Frames:
        """Decode the frames of one clip; VideoError where the file cannot be read, or is no longer what was sampled."""
        first, last = self.bounds[clip]
        part = slice(first, last + 1)
        video = _opened(self.path, self.key, replace(self.options, chunk_size=self.clip_size))
        if len(video.indices) != self.num_frames:
            raise VideoError(f"{self.path} has changed since its frames were chosen; start again")
        chosen = replace(video, indices=video.indices[part], times=video.times[part])
        return next(chosen.chunks())


def sample_clips(path: Path, store: Store, options: FrameOptions, clip_size: int = CLIP_SIZE) -> Clips:
    """Choose the frames of a file, or of a folder of frames, by LLaVA-Video's rule; the store remembers them.

    VideoError where the file cannot be read.
    """
    mark = video_fingerprint(path)
    key = content_key("frames", mark, options.max_frames_num, options.fps, options.force_sample, clip_size)
    known = store.get(key)
    if known is None:
        video = load_video(path, options)
        known = json.dumps([video.duration, [round(time, 3) for time in video.times.tolist()]])
        store.put(key, known, "frames")
    duration, times = json.loads(known)
    return Clips(path, key, len(times), float(duration), tuple(map(float, times)), options, clip_size)


def video_fingerprint(path: Path) -> str:
    """Fingerprint a video file, or a folder of frames by the names and sizes of all and the content of three of them.

    VideoError where a folder has no frames.
    """
    if path.is_dir():
        files = [Path(file) for file in image_files(path)]
        sizes = [(file.name, file.stat().st_size) for file in files]
        return content_key(sizes, [fingerprint(files[number]) for number in (0, len(files) // 2, -1)])
    return fingerprint(path)


@lru_cache(maxsize=16)
def _opened(path: Path, key: str, options: FrameOptions) -> SampledVideo:
    """A sampled file with its packet index, which is large: only those of a few videos stay, for their next clips."""
    return load_video(path, options)
