"""Decodes the next videos in another process, while the model works on this one."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.frame_cache import GIB, FrameCache
from lmms_kvtp.model_wrappers.ahead_worker import Chunk, End, Failed, Finished, Jobs, Message, Opened
from lmms_kvtp.model_wrappers.arguments import RunOptions
from lmms_kvtp.model_wrappers.requests import Ask
from lmms_kvtp.model_wrappers.visuals import to_videos
from lmms_kvtp.sampling import FrameOptions
from lmms_kvtp.types import Frames, PixelSpec, Video
from lmms_kvtp.video import SampledVideo

MIB = 2**20
AUTO_MIB = 1024
WORTH_BYTES = 64 * MIB
"""Videos of this size together take several times as long to decode as the other process takes to start."""
START = "import sys; sys.path[:] = {path!r}; from lmms_kvtp.model_wrappers.ahead_worker import main; main()"


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


class Feed:
    """Messages about videos, in order, taken in by a thread that starts a new process where a video ends the old one.

    The thread stops taking in where `limit_bytes` wait already, and the process then waits, too.
    """

    def __init__(
        self,
        jobs: Sequence[tuple[str, ...]],
        announce: Callable[..., Jobs],
        specs: frozenset[PixelSpec],
        limit_bytes: int,
        seconds: float,
    ) -> None:
        """Start."""
        self._jobs, self._announce, self._specs = list(jobs), announce, specs
        self._limit, self._seconds = limit_bytes, seconds
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Message, int]] = deque()
        self._held = 0
        self.peak = 0
        """Most bytes that ever waited."""
        self._closed = False
        self._connection: Connection | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="decode-ahead", daemon=True)
        self._thread.start()

    def get(self) -> tuple[int, Message]:
        """The next message and its sample; waits for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            number, message, size = self._waiting.popleft()
            self._held -= size
            self._changed.notify_all()
            return number, message

    def learn(self, specs: frozenset[PixelSpec]) -> None:
        """Make these pixels, too, from now on."""
        with self._changed:
            self._specs = specs
            try:
                if self._connection:
                    self._connection.send(specs)
            except OSError:
                pass  # the process has just ended: the next one is told at its start

    def close(self) -> None:
        """End process and thread."""
        with self._changed:
            self._closed = True
            if self.process:
                self.process.kill()
            self._changed.notify_all()
        self._thread.join()
        self._waiting.clear()

    def _run(self) -> None:
        number, reason = 0, "decoding ahead ended"
        try:
            while number < len(self._jobs) and not self._closed:
                number = self._serve(number)
        except OSError as error:
            reason = f"no process can be started to decode ahead: {error}"
        finally:
            if not self._closed:  # without a word on the rest, the model would wait for ever
                self._fail_from(number, reason)

    def _serve(self, number: int) -> int:
        """Take in what one process sends, from sample `number` on; returns the sample to go on with."""
        ours, theirs = Pipe()
        start = START.format(path=sys.path)
        with ours:
            with theirs, self._changed:
                if self._closed:
                    return len(self._jobs)
                command = [sys.executable, "-c", start, str(theirs.fileno())]
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
                )  # a session of its own: Ctrl-C is for us, and closing the pipe ends it
                self._connection, specs = ours, self._specs
            try:
                ours.send(self._announce(self._jobs[number:], specs=specs))
                ours.recv_bytes()  # it is ready; loading its libraries is no video's fault
            except (EOFError, OSError):
                code = self.process.wait()
                return self._fail_from(number, f"the process that decodes ahead ends at its start (exit code {code})")
            else:
                return self._take_in(ours, number)
            finally:
                with self._changed:
                    self._connection = None
                self.process.kill()
                self.process.wait()

    def _take_in(self, connection: Connection, number: int) -> int:
        left = self._seconds
        try:
            while number < len(self._jobs):
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._held < self._limit)
                start = time.monotonic()
                if not connection.poll(max(0.0, left)):
                    return self._give_up(number, f"it takes longer than video_seconds={self._seconds:g}")
                data = connection.recv_bytes()
                left -= time.monotonic() - start
                message = pickle.loads(data)
                self._put(number, message, len(data))
                if isinstance(message, Finished | Failed):
                    number, left = number + 1, self._seconds
        except (EOFError, OSError):
            assert self.process
            return self._give_up(number, f"it ends the decoder's process (exit code {self.process.wait()})")
        return number

    def _give_up(self, number: int, reason: str) -> int:
        text = f"cannot read video {' '.join(self._jobs[number])}: {reason}; replace the file, or leave it out"
        self._put(number, Failed("VideoError", text), 0)
        return number + 1

    def _fail_from(self, number: int, reason: str) -> int:
        for place in range(number, len(self._jobs)):
            self._put(place, Failed("OSError", f"{reason}; set decode_ahead_mib=0"), 0)
        return len(self._jobs)

    def _put(self, number: int, message: Message, size: int) -> None:
        with self._changed:
            self._waiting.append((number, message, size))
            self._held += size
            self.peak = max(self.peak, self._held)
            self._changed.notify_all()
