"""What a decoder offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor


class Reader(ABC):
    """An open video. Not shared between threads."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Decode frames, counted in order of presentation.

        Args:
            indices: ascending, repeats allowed; calls go forward through the video.

        Raises:
            VideoError: a frame cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of file and threads."""
