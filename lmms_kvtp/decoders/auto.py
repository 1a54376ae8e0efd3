"""decord where it gives the right frames, PyAV elsewhere."""

import functools
import logging
from collections.abc import Callable, Sequence

from jaxtyping import UInt8
from torch import Tensor

from lmms_kvtp.decoders.base import Reader
from lmms_kvtp.decoders.decord import DecordError, DecordReader
from lmms_kvtp.decoders.index import VideoIndex
from lmms_kvtp.decoders.pyav import PyAVReader
from lmms_kvtp.sampling import FrameOptions

log = logging.getLogger(__name__)


def open_reader(index: VideoIndex, wanted: Sequence[int], options: FrameOptions) -> Reader:
    """Open a video to read the `wanted` frames, in ascending order.

    Raises:
        VideoError: the backend that `options` names cannot read the file, or not right.
    """

    def pyav() -> Reader:
        return PyAVReader(index, wanted, options.num_threads)

    def decord() -> Reader:
        return DecordReader(index, options.num_threads)

    openers: dict[str, Callable[[], Reader]] = {
        "auto": lambda: AutoReader(decord, pyav),
        "decord": decord,
        "pyav": pyav,
    }
    return openers[options.backend]()


class AutoReader(Reader):
    """Reads with decord until it fails, and with PyAV from there on."""

    def __init__(self, decord: Callable[[], Reader], pyav: Callable[[], Reader]) -> None:
        """Open the file.

        Raises:
            VideoError: neither decoder can.
        """
        self._pyav = pyav
        try:
            self._reader = decord()
        except DecordError as error:
            self._reader = self._instead(error)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Decode frames.

        Raises:
            VideoError: neither decoder can.
        """
        try:
            return self._reader.read(indices)
        except DecordError as error:
            self.close()
            self._reader = self._instead(error)
            return self._reader.read(indices)

    def close(self) -> None:
        """Let go of file and threads."""
        self._reader.close()

    def _instead(self, error: DecordError) -> Reader:
        log.info("%s", error)
        _warn_once(error.reason)
        return self._pyav()


@functools.cache
def _warn_once(reason: str) -> None:
    log.warning("decord does not read some videos, %s; PyAV reads these (log level INFO names each)", reason)
