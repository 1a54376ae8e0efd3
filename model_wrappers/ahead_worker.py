"""The process that decodes ahead: videos in, their frames and pixels out, in order."""

import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeAlias

import torch

from lmms_kvtp.model_wrappers.visuals import to_videos
from lmms_kvtp.sampling import FrameOptions
from lmms_kvtp.types import Frames, PixelSpec, Video, VideoError


@dataclass(frozen=True)
class Jobs:
    """All that the process is told at its start."""

    visuals: Sequence[tuple[str, ...]]
    """Paths of each sample's visuals, in the order in which they are wanted."""
    options: FrameOptions
    specs: frozenset[PixelSpec]
    """What towers read, as far as it is known; more may follow."""


@dataclass(frozen=True)
class Opened:
    """The videos of a sample, of which no frame is decoded yet."""

    videos: Sequence[Video]
    seconds: float


@dataclass(frozen=True)
class Chunk:
    """Decoded frames with their pixels, and the seconds that both took here."""

    frames: Frames


@dataclass(frozen=True)
class End:
    """No more frames of this video."""


@dataclass(frozen=True)
class Finished:
    """No more videos of this sample."""


@dataclass(frozen=True)
class Failed:
    """The sample cannot be read; nothing more of it follows."""

    kind: str
    message: str

    def error(self) -> Exception:
        """What reading it in the main process would have raised, where that is one of the usual errors."""
        kinds: dict[str, type[Exception]] = {"VideoError": VideoError, "ValueError": ValueError}
        kind = kinds.get(self.kind)
        return kind(self.message) if kind else RuntimeError(f"{self.kind}: {self.message}")


Message: TypeAlias = Opened | Chunk | End | Finished | Failed


def main() -> None:
    """Serve the connection whose file descriptor is the last argument, until it is closed."""
    os.dup2(2, 1)  # what libraries print belongs to nobody's output
    with Connection(int(sys.argv[-1])) as connection:
        serve(connection)


def serve(connection: Connection) -> None:
    """Decode all jobs; afterwards wait for the end, so that the last message is not lost."""
    torch.set_num_threads(1)  # the other cores belong to the model
    jobs: Jobs = connection.recv()
    specs = list(jobs.specs)
    listener = threading.Thread(target=_listen, args=(connection, specs), daemon=True)
    listener.start()
    connection.send_bytes(b"ready")
    for visuals in jobs.visuals:
        for message in messages(visuals, jobs.options, specs):
            connection.send_bytes(pickle.dumps(message, protocol=5))
    listener.join()


def messages(visuals: Sequence[str], options: FrameOptions, specs: Sequence[PixelSpec]) -> Iterator[Message]:
    """Everything about one sample. `specs` is read anew for each chunk."""
    try:
        start = time.perf_counter()
        videos = to_videos(list(visuals), " ".join(visuals), options)
        yield Opened(videos, time.perf_counter() - start)
        for video in videos:
            yield from _chunks(video, specs)
            yield End()
        yield Finished()
    except Exception as error:  # the boundary of one sample, on this side: the wrapper raises or counts it
        yield Failed(type(error).__name__, str(error))


def _chunks(video: Video, specs: Sequence[PixelSpec]) -> Iterator[Chunk]:
    chunks = video.chunks()
    while True:
        start = time.perf_counter()
        frames = next(chunks, None)
        if frames is None:
            return
        decoded = time.perf_counter()
        for spec in list(specs):
            frames.pixels(spec)
        spent = {"decode": decoded - start, "preprocess": time.perf_counter() - decoded}
        yield Chunk(frames.elsewhere(spent))


def _listen(connection: Connection, specs: list[PixelSpec]) -> None:
    """Take in what else towers read. When the other side is gone, end, whatever the decoder does."""
    try:
        while True:
            specs[:] = connection.recv()
    except (EOFError, OSError):
        os._exit(0)
