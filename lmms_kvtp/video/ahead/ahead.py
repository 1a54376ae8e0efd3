"""Decodes the next videos in other processes, while the model works on this one."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import psutil

from lmms_kvtp.types import Timing
from lmms_kvtp.video.ahead.feed import Feed
from lmms_kvtp.video.ahead.worker import Chunk, End, Failed, Jobs, Message, Opened
from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.frames import Frames, Video
from lmms_kvtp.video.load import SampledVideo, are_images
from lmms_kvtp.video.pixels import PixelSpec
from lmms_kvtp.video.sampling import FrameOptions

MIB = 2**20
AUTO_MIB = 1024
PROCESS_BYTES, SHARE = 600 * MIB, 4
"""What a process holds, and the part of the free memory, a quarter, that all that `auto` starts may take."""
WORTH_BYTES = 64 * MIB
"""Size of all videos from which decoding ahead pays: decoding then takes several times as long as a process start."""


@dataclass(frozen=True)
class AheadOptions:
    """How much is decoded ahead, and by whom."""

    mib: int | Literal["auto"] = "auto"
    """Memory for frames that wait; 0 decodes nothing ahead, auto does where that saves more than it costs."""
    processes: int | Literal["auto"] = "auto"
    """Processes that decode; auto: one for each core but the model's, as far as memory goes."""
    video_seconds: float = 600.0
    """Time that one sample's videos may take, before the sample has failed."""
    cache: FrameCache | None = None
    """Resized frames on disk."""
    images: bool = True
    """Whether images are decoded, too; false where no tower reads them as frames."""


@contextmanager
def decode_ahead(
    options: AheadOptions, frames: FrameOptions, visuals: Iterable[tuple[str, ...]]
) -> Iterator["Ahead | None"]:
    """Decode the videos of samples, in their order, for as long as the block lasts; None where that is not wanted.

    Args:
        options: how much is decoded ahead, and by whom.
        frames: which frames of each video.
        visuals: the paths of each sample's visuals; samples with equal ones share their frames.
    """
    found = [paths for paths in dict.fromkeys(visuals) if options.images or not are_images(paths)]
    upcoming = [paths for paths in found if paths and all(Path(path).exists() for path in paths)]
    room = worth_mib(upcoming) if options.mib == "auto" else options.mib
    if room == 0 or not upcoming:
        yield None
        return
    processes = free_cores() if options.processes == "auto" else options.processes
    ahead = Ahead(upcoming, frames, room * MIB, options.video_seconds, options.cache, processes)
    try:
        yield ahead
    finally:
        ahead.close()


def worth_mib(upcoming: Sequence[tuple[str, ...]]) -> int:
    """Choose the memory for frames that wait, in MiB.

    Few or small videos get none, and neither does a run without a second core for each of its processes.
    """
    size = sum(os.path.getsize(visual) for visuals in upcoming for visual in visuals)
    return AUTO_MIB if len(upcoming) > 1 and size >= WORTH_BYTES and _cores() >= 2 else 0


def free_cores() -> int:
    """Count the processes that may decode: one for each core but the model's, in a quarter of the free memory."""
    room: int = psutil.virtual_memory().available // SHARE // _ranks() // PROCESS_BYTES
    return max(1, min(_cores() - 1, room))


def _cores() -> int:
    """Count the cores of this process; the processes of a run on one machine share its cores evenly."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // _ranks()


def _ranks() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@dataclass(frozen=True, eq=False)
class AheadVideo:
    """Implements `frames.Video`; another process decodes."""

    key: str
    instruction: str
    timing: Timing | None
    stream: Iterator[Frames] = field(repr=False)

    def chunks(self) -> Iterator[Frames]:
        """Hand out the frames, once only. VideoError where a frame cannot be read; the message has path and cause."""
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
        """Begin to decode `upcoming`, the paths of each sample's visuals."""
        self.places = {visuals: place for place, visuals in enumerate(upcoming)}
        jobs = partial(Jobs, options=options, cache=cache)
        self._count = min(processes, len(upcoming))
        self._start = partial(Feed, announce=jobs, limit_bytes=limit_bytes // self._count, seconds=seconds)
        self._failed: dict[tuple[str, ...], Failed] = {}
        self._specs: frozenset[PixelSpec] = frozenset()
        self._jobs: list[tuple[str, ...]] = []
        self._next = 0  # place in the jobs
        self.feeds: list[Feed] = []
        self._begin(list(upcoming))

    def videos(self, visuals: tuple[str, ...]) -> list[Video] | None:
        """Wait until the videos of a sample are opened, and hand them out; None for a sample that was not announced.

        Raises:
            VideoError: a video cannot be read. It is raised again each time: what hung once is not tried again.
            ValueError: visuals are of several kinds, or of one that is no video.
        """
        if visuals not in self.places:
            return None
        if visuals in self._failed:
            raise self._failed[visuals].error()
        if visuals not in self._jobs[self._next :]:  # it is asked for once more, as a batch failed
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
            videos.append(AheadVideo(video.key, video.instruction, video.timing, stream))
        return videos

    def close(self) -> None:
        """End the processes and let go of what they decoded."""
        for feed in self.feeds:
            feed.close()

    def _begin(self, jobs: list[tuple[str, ...]]) -> None:
        """Start processes that decode `jobs`, in turns."""
        self._jobs, self._next = jobs, 0
        self.feeds = [self._start(jobs[first :: self._count], specs=self._specs) for first in range(self._count)]

    def _stream(self, number: int, video: SampledVideo, before: dict[str, float]) -> Iterator[Frames]:
        """Give the frames of one video; the seconds in `before` count as the first frames' own."""
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
                for feed in self.feeds:
                    feed.learn(self._specs)
            del frames, message  # before the next are taken in

    def _get(self, number: int) -> Message:
        """Wait for the next message about a sample; messages about earlier samples are dropped."""
        feed, wanted = self.feeds[number % self._count], number // self._count
        place, message = feed.get()
        while place < wanted:
            place, message = feed.get()
        assert place == wanted
        if isinstance(message, Failed):
            self._failed[self._jobs[number]] = message
            raise message.error()
        return message
