"""The process that decodes ahead: it gets paths of videos, and sends their frames in order."""

import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.frames import Frames, StaleIndexError, VideoError
from lmms_kvtp.video.load import SampledVideo, to_videos
from lmms_kvtp.video.pixels import PixelSpec
from lmms_kvtp.video.sampling import FrameOptions


@dataclass(frozen=True)
class Jobs:
    """Everything that the process is told at its start."""

    visuals: Sequence[tuple[str, ...]]
    """Paths of each sample's visuals, in the order in which they are wanted."""
    options: FrameOptions
    specs: frozenset[PixelSpec]
    """Towers for which frames are resized, as far as they are known; more may follow."""
    cache: FrameCache | None = None


@dataclass(frozen=True)
class Opened:
    """The videos of a sample, of which no frame is decoded yet."""

    videos: Sequence[SampledVideo]
    seconds: float


@dataclass(frozen=True)
class Chunk:
    """Some frames, resized for the towers that are known, and the seconds that each stage took here."""

    times: Float[Tensor, " T"]
    resized: Mapping[PixelSpec, UInt8[NDArray[np.uint8], "T h w 3"]]
    rgb: UInt8[NDArray[np.uint8], "T H W 3"] | None
    """Frames as they are in the video, as long as no tower is known."""
    spent: Mapping[str, float]
    patched: int
    """How many of them are damaged, and shown as a codec patches them."""

    def frames(self, video: SampledVideo, first: int, spent: Mapping[str, float]) -> Frames:
        """Make `Frames` of them in the model's process.

        Args:
            video: the video.
            first: place of the first of them among the sampled frames.
            spent: seconds of stages to be added to those here.
        """
        part = slice(first, first + len(self.times))
        total = {stage: self.spent.get(stage, 0.0) + spent.get(stage, 0.0) for stage in {**self.spent, **spent}}
        rgb = partial(video.read, part) if self.rgb is None else torch.from_numpy(self.rgb)
        resized = {spec: torch.from_numpy(frames) for spec, frames in self.resized.items()}
        return Frames.of_resized(resized, rgb, self.times, total, video.shrink(part, self.patched), self.patched)


@dataclass(frozen=True)
class End:
    """Says that the video has no more frames."""


@dataclass(frozen=True)
class Finished:
    """Says that the sample has no more videos."""


@dataclass(frozen=True)
class Failed:
    """Says that the sample cannot be read; nothing more of it follows."""

    kind: str
    message: str

    def error(self) -> Exception:
        """Make the error that reading the sample in the main process would have raised."""
        kinds: dict[str, type[Exception]] = {kind.__name__: kind for kind in (VideoError, StaleIndexError, ValueError)}
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
        for message in messages(visuals, jobs, specs):
            connection.send_bytes(pickle.dumps(message, protocol=5))
    listener.join()


def messages(visuals: Sequence[str], jobs: Jobs, specs: Sequence[PixelSpec]) -> Iterator[Message]:
    """Give all messages about one sample. `specs` is read anew for each chunk: it may have grown."""
    try:
        start = time.perf_counter()
        videos = to_videos(list(visuals), " ".join(visuals), jobs.options, jobs.cache)
        yield Opened(videos, time.perf_counter() - start)
        for video in videos:
            yield from _chunks(video, specs)
            yield End()
        yield Finished()
    except Exception as error:  # the boundary of one sample, on this side: the wrapper raises or counts it
        yield Failed(type(error).__name__, str(error))


def _chunks(video: SampledVideo, specs: Sequence[PixelSpec]) -> Iterator[Chunk]:
    chunks = video.chunks()
    while True:
        start = time.perf_counter()
        frames = next(chunks, None)
        if frames is None:
            return
        decoded = time.perf_counter()
        resized = {spec: frames.resized(spec).numpy() for spec in list(specs)}
        rgb = None if resized else frames.rgb.numpy()
        spent = {"decode": decoded - start, "preprocess": time.perf_counter() - decoded}
        yield Chunk(frames.times, resized, rgb, spent, frames.patched)


def _listen(connection: Connection, specs: list[PixelSpec]) -> None:
    """Take in new towers. When the other side is gone, end the process, whatever the decoder does."""
    try:
        while True:
            specs[:] = connection.recv()
    except (EOFError, OSError):
        os._exit(0)
