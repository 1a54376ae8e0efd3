"""Short videos of moving blocks, in H.264."""

from pathlib import Path

import av
import numpy as np


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
