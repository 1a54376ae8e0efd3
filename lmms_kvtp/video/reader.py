"""What a decoder offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

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


class LateReader(Reader):
    """Opens its video when the first frames are wanted, which may be never."""

    def __init__(self, open: Callable[[], Reader]) -> None:
        """Remember how."""
        self._open = open
        self._reader: Reader | None = None

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Decode frames; raises what opening and reading raise."""
        self._reader = self._reader or self._open()
        return self._reader.read(indices)

    def close(self) -> None:
        """Let go of what was opened."""
        if self._reader:
            self._reader.close()
