"""Short videos: files of moving blocks in H.264, and noise in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import torch

from lmms_kvtp.video.frames import Frames


def write_video(path: Path, seconds: int = 7, rate: int = 5, seed: int = 0) -> Path:
    """Noise that changes every second, 64 x 48."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(seconds):
            blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            for _ in range(rate):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(blocks), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_colors(path: Path, colors: Sequence[tuple[int, int, int]]) -> Path:
    """A plain frame of each color, one a second, 96 x 64."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for color in colors:
            plain = np.full((64, 96, 3), color, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(plain, format="rgb24")))
        container.mux(stream.encode())
    return path


class Clip:
    """A video of noise in memory, one frame a second."""

    instruction, timing = "", None

    def __init__(
        self, count: int = 3, height: int = 24, width: int = 40, *, seed: int = 0, chunk_size: int | None = None
    ) -> None:
        self.source = self.key = f"clip{seed}"
        self.duration, self.chunk_size = float(count), chunk_size or count
        noise = torch.Generator().manual_seed(seed)
        self.rgb = torch.randint(0, 256, (count, height, width, 3), generator=noise, dtype=torch.uint8)
        self.indices, self.times = torch.arange(count), torch.arange(float(count))

    def chunks(self) -> Iterator[Frames]:
        """Frames, `chunk_size` at a time."""
        for rgb, times in zip(self.rgb.split(self.chunk_size), self.times.split(self.chunk_size), strict=True):
            yield Frames(rgb, times)
