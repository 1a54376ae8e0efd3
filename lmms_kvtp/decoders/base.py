"""What a decoder offers."""

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import UInt8
from torch import Tensor


class Reader(Protocol):
    """An open video. Not shared between threads."""

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Decode frames, counted in order of presentation.

        Args:
            indices: ascending, repeats allowed; calls go forward through the video.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Let go of file and threads."""
        ...
