"""The choice of a decoder: PyAV, which is faster, and decord for damaged frames, which it patches as codecs do."""

import functools
import logging
from collections.abc import Callable, Sequence

from jaxtyping import UInt8
from torch import Tensor

from lmms_kvtp.video.decord import DecordError, DecordReader
from lmms_kvtp.video.index import VideoIndex
from lmms_kvtp.video.pyav import DamagedError, PyAVReader
from lmms_kvtp.video.reader import Reader
from lmms_kvtp.video.sampling import FrameOptions

log = logging.getLogger(__name__)


def open_reader(index: VideoIndex, wanted: Sequence[int], options: FrameOptions) -> Reader:
    """Open a video to read the `wanted` frames, in ascending order.

    VideoError where the backend that `options` names cannot read the file, or would give wrong frames.
    """
    pyav = functools.partial(PyAVReader, index, wanted, options.num_threads)
    decord = functools.partial(DecordReader, index, options.num_threads)
    auto = functools.partial(AutoReader, index, wanted, options.num_threads, functools.partial(decord, trial=wanted))
    openers: dict[str, Callable[[], Reader]] = {"auto": auto, "decord": decord, "pyav": pyav}
    return openers[options.backend]()


class AutoReader(Reader):
    """Reads with PyAV until a frame is damaged, and with decord from there on, as far as it reads the file right."""

    def __init__(
        self, index: VideoIndex, wanted: Sequence[int], num_threads: int, decord: Callable[[], Reader]
    ) -> None:
        """Open the file with PyAV; VideoError where it cannot be opened."""
        self._decord = decord
        self._pyav = PyAVReader(index, wanted, num_threads)
        self._reader: Reader = self._pyav

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Decode frames; VideoError where no decoder can, or where decord might put others in their place."""
        try:
            frames = self._reader.read(indices)
        except DamagedError as error:
            instead = self._instead(error, indices)
            if instead is None:
                raise
            log.info("%s; decord reads it", error)
            warn_once()
            frames = instead
        if self._reader is not self._pyav:
            self.patched += self._pyav.damaged(indices[: len(frames)])
        return frames

    def close(self) -> None:
        """Close the file and end the threads."""
        self._reader.close()
        self._pyav.close()

    def _instead(self, error: DamagedError, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"] | None:
        """Let decord read, now and from now on; None where it cannot."""
        try:
            reader = self._decord()
        except DecordError as objection:
            log.info("%s: %s", error, objection)
            return None
        try:
            frames = reader.read(indices)
        except DecordError as failure:
            reader.close()
            log.info("%s: %s", error, failure)
            return None
        self._reader = reader
        return frames


@functools.cache
def warn_once() -> None:
    """Warn once in a run that decord patches damaged frames."""
    log.warning(
        "frames of some videos are damaged; decord reads these as its codec patches them (level INFO names them)"
    )
