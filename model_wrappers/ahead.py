"""Decodes the next videos in another process, while the model works on this one."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.frame_cache import GIB, FrameCache
from lmms_kvtp.model_wrappers.ahead_feed import Feed
from lmms_kvtp.model_wrappers.ahead_worker import Chunk, End, Failed, Jobs, Message, Opened
from lmms_kvtp.model_wrappers.arguments import RunOptions
from lmms_kvtp.model_wrappers.requests import Ask
from lmms_kvtp.model_wrappers.visuals import to_videos
from lmms_kvtp.pixel_spec import PixelSpec
from lmms_kvtp.sampling import FrameOptions
from lmms_kvtp.types import Frames, Video
from lmms_kvtp.video import SampledVideo

MIB = 2**20
AUTO_MIB = 1024
WORTH_BYTES = 64 * MIB
"""Videos of this size together take several times as long to decode as the other process takes to start."""


@contextmanager
def decode_ahead(run: RunOptions, frames: FrameOptions, asks: Iterable[Ask]) -> Iterator["Ahead | None"]:
    """Decode the videos of `asks`, in their order, for as long as the block lasts; None where that is not wanted."""
    found = dict.fromkeys(ask.visuals for ask in asks)
    upcoming = [visuals for visuals in found if visuals and all(Path(visual).exists() for visual in visuals)]
    room = _worth(upcoming) if run.decode_ahead_mib == "auto" else run.decode_ahead_mib
    if room == 0 or not upcoming:
        yield None
        return
    ahead = Ahead(upcoming, frames, room * MIB, run.video_seconds, cache_of(run))
    try:
        yield ahead
    finally:
        ahead.close()


def _worth(upcoming: Sequence[tuple[str, ...]]) -> int:
    """MiB for frames that wait: none for few or small videos, or without a second core for each process of the run."""
    size = sum(os.path.getsize(visual) for visuals in upcoming for visual in visuals)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return AUTO_MIB if len(upcoming) > 1 and size >= WORTH_BYTES and cores >= 2 * processes else 0


def cache_of(run: RunOptions) -> FrameCache | None:
    """The frame cache of a run, if it has one."""
    return FrameCache(Path(run.frame_cache), int(run.frame_cache_gib * GIB)) if run.frame_cache else None


def videos_of(
    ask: Ask, frames: FrameOptions, ahead: "Ahead | None", cache: FrameCache | None = None
) -> Sequence[Video]:
    """The videos of a question, decoded ahead where that goes.

    Raises:
        VideoError: a video cannot be read, or its decoder hangs or crashes.
        ValueError: visuals are of several kinds, or of one that is no video.
    """
    found = ahead.videos(ask.visuals) if ahead else None
    return to_videos(ask.load(), " ".join(ask.visuals), frames, cache) if found is None else found


@dataclass(frozen=True, eq=False)
class AheadVideo:
    """Implements `types.Video`; the frames are another process's."""

    source: str
    key: str
    indices: Int[Tensor, " T"]
    times: Float[Tensor, " T"]
    duration: float
    instruction: str
    stream: Iterator[Frames] = field(repr=False)

    def chunks(self) -> Iterator[Frames]:
        """The frames, once.

        Raises:
            VideoError: a frame cannot be read; the message has path and cause.
        """
        return self.stream


class Ahead:
    """Hands out videos in the order in which they were announced; any other order is possible, and slow."""

    def __init__(
        self,
        upcoming: Sequence[tuple[str, ...]],
        options: FrameOptions,
        limit_bytes: int,
        seconds: float,
        cache: FrameCache | None = None,
    ) -> None:
        """Begin to decode."""
        self._place = {visuals: place for place, visuals in enumerate(upcoming)}
        jobs = partial(Jobs, options=options, cache=cache)
        self._start = partial(Feed, announce=jobs, limit_bytes=limit_bytes, seconds=seconds)
        self._failed: dict[tuple[str, ...], Failed] = {}
        self._specs: frozenset[PixelSpec] = frozenset()
        self._jobs = list(upcoming)
        self._next = 0  # of the jobs
        self._feed = self._start(self._jobs, specs=self._specs)

    def videos(self, visuals: tuple[str, ...]) -> list[Video] | None:
        """The videos of a sample, as soon as they are opened; None for one that was not announced.

        Raises:
            VideoError: a video cannot be read. So it is each time: what hung once is not tried again.
            ValueError: visuals are of several kinds, or of one that is no video.
        """
        if visuals not in self._place:
            return None
        if visuals in self._failed:
            raise self._failed[visuals].error()
        if visuals not in self._jobs[self._next :]:  # once more: a batch failed
            self._feed.close()
            self._jobs, self._next = [visuals, *self._jobs[self._next :]], 0
            self._feed = self._start(self._jobs, specs=self._specs)
        number = self._jobs.index(visuals, self._next)
        self._next = number + 1
        start = time.perf_counter()
        opened = self._get(number)
        assert isinstance(opened, Opened)
        spent = {"decode": opened.seconds, "waiting": time.perf_counter() - start}
        videos: list[Video] = []
        for video in opened.videos:
            stream = self._stream(number, video, {} if videos else spent)
            told = (video.source, video.key, video.indices, video.times, video.duration, video.instruction)
            videos.append(AheadVideo(*told, stream))
        return videos

    def close(self) -> None:
        """End the process and let go of what it decoded."""
        self._feed.close()

    def _stream(self, number: int, video: SampledVideo, before: dict[str, float]) -> Iterator[Frames]:
        """Frames of one video; what was spent before the first counts there."""
        first = 0
        while True:
            message = self._get(number)
            if isinstance(message, End):
                return
            assert isinstance(message, Chunk)
            frames = message.frames(video, first, before)
            first, before = first + len(frames.times), {}
            yield frames
            if not frames.prepared <= self._specs:  # a tower wanted more: from now on it is made ahead
                self._specs |= frames.prepared
                self._feed.learn(self._specs)
            del frames, message  # before the next are taken in

    def _get(self, number: int) -> Message:
        """The next message about a sample; what is left of earlier ones is dropped."""
        place, message = self._feed.get()
        while place < number:
            place, message = self._feed.get()
        assert place == number
        if isinstance(message, Failed):
            self._failed[self._jobs[number]] = message
            raise message.error()
        return message
