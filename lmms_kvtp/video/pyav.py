"""PyAV, which reads what FFmpeg reads; frames are found by their time stamps."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from lmms_kvtp.video.container import WAY_OUT, open_video
from lmms_kvtp.video.frames import StaleIndexError, VideoError
from lmms_kvtp.video.index import VideoIndex, decode, shows_others
from lmms_kvtp.video.reader import Reader, stacked

if TYPE_CHECKING:
    from av import VideoFrame
else:
    VideoFrame = Any  # PyAV is imported where it is used

SKIPPING = ("h264", "hevc")
"""Decoders that can leave out single frames, those that no other frame needs, and change nothing in the others."""


class DamagedError(VideoError):
    """A frame does not decode as it should; the codec might patch it."""


class PyAVReader(Reader):
    """Decodes from the last key frame before each wanted frame on, and converts only wanted ones."""

    def __init__(self, index: VideoIndex, wanted: Sequence[int], num_threads: int) -> None:
        """Open the file.

        Args:
            index: the file's index.
            wanted: all that `read` will be asked for; of the others, frames that no frame needs are not decoded.
            num_threads: threads that decode; 0 for as many as there are cores.

        Raises:
            VideoError: the file cannot be opened.
        """
        self._index = index
        self._wanted = set() if index.stamps is None else set(index.stamps[list(wanted)].tolist())
        self._stack = ExitStack()
        self._container, self._stream = self._stack.enter_context(open_video(index.path))
        self._stream.codec_context.thread_count = num_threads
        self._stream.codec_context.thread_type = "AUTO"
        self._frames = self._decode()
        self._at = -1  # the frame that was found last
        self._rgb: NDArray[np.uint8] = np.empty((0, 0, 3), dtype=np.uint8)  # and its pixels

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "t H W 3"]:
        """Decode frames; DamagedError where one is damaged, StaleIndexError or VideoError where one is missing."""
        return stacked(map(self._picture, indices))

    def damaged(self, indices: Sequence[int]) -> int:
        """Count the frames that are damaged, decoded from the last key frame before each; forward as `read`."""
        return sum(self._is_damaged(index) for index in indices)

    def close(self) -> None:
        """Close the file and end the threads."""
        self._frames = iter(())  # it holds this reader, which holds it: the decoder would stay until Python looks
        self._stack.close()

    def _picture(self, index: int) -> NDArray[np.uint8]:
        if index != self._at:
            self._rgb = _to_rgb(self._find(index))
            self._at = index
        return self._rgb

    def _is_damaged(self, index: int) -> bool:
        try:
            self._find(index, tries=2)
        except VideoError:
            return True
        finally:
            self._at = index
        return False

    def _find(self, index: int, tries: int | None = None) -> VideoFrame:
        import av

        cause, kind = "missing", VideoError
        for start in islice(self._starts(index), tries):
            try:
                if start is not None:
                    self._container.seek(start, stream=self._stream)
                    self._frames = self._decode(after_seek=True)
                position, frame = next(found for found in self._frames if found[0] >= index)
            except StopIteration:
                continue
            except av.FFmpegError as error:
                cause, kind = f"damaged ({error.strerror})", DamagedError
                continue
            if position == index and not frame.is_corrupt:
                return frame
            if position == index:
                cause, kind = "damaged", DamagedError
        if kind is VideoError and shows_others(self._index):
            raise StaleIndexError(f"video {self._index.path} does not show what its packets announce; read it again")
        raise kind(f"cannot read video {self._index.path}: frame {index} is {cause}; {WAY_OUT}")

    def _starts(self, index: int) -> Iterator[int | None]:
        """List where to start the search for a frame: None for "go on from here", then stamps of earlier key frames."""
        stamps, keys = self._index.stamps, self._index.key_stamps
        if stamps is None:
            yield None
            return
        here, there = np.searchsorted(keys, stamps[[max(self._at, 0), index]], side="right").tolist()
        if index > self._at and here == there:
            yield None
        for place in sorted({max(0, there - back) for back in (1, 2, 4, len(keys))}, reverse=True):
            yield int(keys[place]) if len(keys) else int(stamps[0])

    def _decode(self, after_seek: bool = False) -> Iterator[tuple[int, VideoFrame]]:
        """Decode from here on: positions and frames, in order of presentation."""
        context, stamps, last = self._stream.codec_context, self._index.stamps, -1
        if stamps is None:
            yield from enumerate(decode(self._container, self._stream, len(self._index.key_stamps) > 0))
            return
        is_blind = after_seek and len(self._index.key_stamps) > 0
        for packet in self._container.demux(self._stream):
            is_blind = is_blind and packet.size > 0 and not packet.is_keyframe
            if is_blind:  # MPEG-TS seeks to any frame, and HEVC decodes what it cannot
                continue
            if context.name in SKIPPING:
                context.skip_frame = "DEFAULT" if packet.pts in self._wanted else "NONREF"
            for frame in context.decode(packet):
                place = _position(stamps, frame.pts)
                yield (place if place > last else -1), frame  # a frame out of order has another one's stamp
                last = max(place, last)


def _position(stamps: NDArray[np.int64], stamp: int | None) -> int:
    place = int(np.searchsorted(stamps, -1 if stamp is None else stamp))
    return place if place < len(stamps) and stamps[place] == stamp else -1


def _to_rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """Show the frame as a player does, in decord's colors: by the matrix and range that the stream names, or BT.601."""
    from av.video.reformatter import ColorRange, Colorspace

    rgb = frame.to_ndarray(
        format="rgb24",
        src_color_range=frame.color_range,
        dst_color_range=ColorRange.MPEG,  # PyAV looks at colours only where source and destination differ
        dst_colorspace=Colorspace.ITU601,
    )
    turns, rest = divmod(frame.rotation, 90)
    axis = mirror_axis(frame)
    upright: NDArray[np.uint8] = np.rot90(rgb, 0 if rest else turns)
    return upright if axis is None else np.flip(upright, axis)


def mirror_axis(frame: VideoFrame) -> int | None:
    """Which axis of a frame, turned by its `rotation`, its display matrix flips: 0 up and down, 1 left and right."""
    try:
        sides: Any = frame.side_data
    except ValueError:  # PyAV does not know a kind of them, such as the views of spatial video
        return None
    data = {side.type.name: side for side in sides}.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", data)
    return None if a * d >= b * c else int(abs(b) > abs(a))
