"""Decodes the next videos in other processes, while the model works on this one."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.video.ahead.feed import Feed
from lmms_kvtp.video.ahead.worker import Chunk, End, Failed, Jobs, Message, Opened
from lmms_kvtp.video.cache import GIB, FrameCache
from lmms_kvtp.video.frames import Frames, Video
from lmms_kvtp.video.load import SampledVideo
from lmms_kvtp.video.pixels import PixelSpec
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.video.visuals import are_images, to_videos

MIB = 2**20
AUTO_MIB = 1024
MOST_PROCESSES = 4
"""Of `auto`: each holds half a GiB."""
WORTH_BYTES = 64 * MIB
"""Videos of this size together take several times as long to decode as the other process takes to start."""


@contextmanager
def decode_ahead(run: RunOptions, frames: FrameOptions, asks: Iterable[Ask]) -> Iterator["Ahead | None"]:
    """Decode the videos of `asks`, in their order, for as long as the block lasts; None where that is not wanted."""
    found = dict.fromkeys(ask.visuals for ask in asks)
    if run.images == "tiles":  # these are never asked for as frames
        found = {visuals: None for visuals in found if not are_images(visuals)}
    upcoming = [visuals for visuals in found if visuals and all(Path(visual).exists() for visual in visuals)]
    room = _worth(upcoming) if run.decode_ahead_mib == "auto" else run.decode_ahead_mib
    if room == 0 or not upcoming:
        yield None
        return
    processes = _free_cores() if run.decode_ahead_processes == "auto" else run.decode_ahead_processes
    ahead = Ahead(upcoming, frames, room * MIB, run.video_seconds, cache_of(run), processes)
    try:
        yield ahead
    finally:
        ahead.close()


def _worth(upcoming: Sequence[tuple[str, ...]]) -> int:
    """MiB for frames that wait: none for few or small videos, or without a second core for each process of the run."""
    size = sum(os.path.getsize(visual) for visuals in upcoming for visual in visuals)
    return AUTO_MIB if len(upcoming) > 1 and size >= WORTH_BYTES and _cores() >= 2 else 0


def _free_cores() -> int:
    """Processes that decode: one for each core but the model's, MOST_PROCESSES at most and one at least."""
    return max(1, min(_cores() - 1, MOST_PROCESSES))


def _cores() -> int:
    """Of this process, where several processes of the run share the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


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
    """Hands out videos in the order in which they were announced; any other order is possible, and slow.

    Processes take turns: of two, one decodes every second video.
    """

    def __init__(
        self,
        upcoming: Sequence[tuple[str, ...]],
        options: FrameOptions,
        limit_bytes: int,
        seconds: float,
        cache: FrameCache | None = None,
        processes: int = 1,
    ) -> None:
        """Begin to decode."""
        self._place = {visuals: place for place, visuals in enumerate(upcoming)}
        jobs = partial(Jobs, options=options, cache=cache)
        self._count = min(processes, len(upcoming))
        self._start = partial(Feed, announce=jobs, limit_bytes=limit_bytes // self._count, seconds=seconds)
        self._failed: dict[tuple[str, ...], Failed] = {}
        self._specs: frozenset[PixelSpec] = frozenset()
        self._jobs: list[tuple[str, ...]] = []
        self._next = 0  # of the jobs
        self._feeds: list[Feed] = []
        self._begin(list(upcoming))

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
            self.close()
            self._begin([visuals, *self._jobs[self._next :]])
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
        """End the processes and let go of what they decoded."""
        for feed in self._feeds:
            feed.close()

    def _begin(self, jobs: list[tuple[str, ...]]) -> None:
        """Decode these from here on, in turns."""
        self._jobs, self._next = jobs, 0
        self._feeds = [self._start(jobs[first :: self._count], specs=self._specs) for first in range(self._count)]

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
                for feed in self._feeds:
                    feed.learn(self._specs)
            del frames, message  # before the next are taken in

    def _get(self, number: int) -> Message:
        """The next message about a sample; what is left of earlier ones is dropped."""
        feed, wanted = self._feeds[number % self._count], number // self._count
        place, message = feed.get()
        while place < wanted:
            place, message = feed.get()
        assert place == wanted
        if isinstance(message, Failed):
            self._failed[self._jobs[number]] = message
            raise message.error()
        return message
