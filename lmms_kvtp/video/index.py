"""What the packets of a video file say of its frames, before any is decoded."""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lmms_kvtp.video.frames import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream
else:
    InputContainer = Packet = VideoStream = Any  # PyAV is imported where it is used
WAY_OUT = "replace or re-encode the file, or run with on_error=skip"
TIMELESS = ("avi", "asf")
"""Formats whose packets say when to decode a frame, and not when to show it."""
MEDIA = (b"moov", b"mdat", b"moof")  # boxes that no reader can do without
SEGMENT = bytes.fromhex("18538067")  # the Matroska element that holds a whole video
EBML = bytes.fromhex("1A45DFA3")


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Frames of a file's first video stream, from its packets alone."""

    path: str
    container: str
    """FFmpeg's names of the format, comma-separated."""
    num_frames: int
    avg_fps: float
    stamps: NDArray[np.int64] | None = field(repr=False)
    """Presentation time of each frame, ascending; None where packets have none, or share one."""
    key_stamps: NDArray[np.int64] = field(repr=False)
    """Presentation times of key frames, ascending, those before the first frame shown included."""
    clean_keys: bool
    """Whether every key frame starts afresh: no frame after it, in either order, needs one before it."""
    hidden_frames: int
    """Number of frames that are decoded and never shown: an edit list begins inside a group of pictures."""


def read_index(path: str) -> VideoIndex:
    """Read a video's packets, and check that the file is whole.

    Raises:
        VideoError: no such file, no video in it, no frames, or a part of it is missing.
    """
    _check_file(path)
    shown: list[int | None] = []  # stamps in order of decoding
    hidden: list[int | None] = []
    keys: list[int | None] = []
    clean = True
    with open_video(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError(f"cannot read video {path}: it is cut off or damaged; {WAY_OUT}")
            if packet.size == 0:  # the end
                continue
            (hidden if packet.is_discard else shown).append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
                clean = clean and _is_clean(packet, stream)
        rate, name = stream.average_rate or stream.guessed_rate, container.format.name
        reorders = stream.codec_context.has_b_frames
    if not shown:
        raise VideoError(f"cannot read video {path}: it has no frames; {WAY_OUT}")
    stamps = [stamp for stamp in shown if stamp is not None]
    in_order = sorted(set(stamps))
    is_timeless = name in TIMELESS and reorders and stamps == in_order
    is_stamped = len(in_order) == len(shown) and not is_timeless
    key_stamps = [stamp for stamp in keys if stamp is not None]
    return VideoIndex(
        path=path,
        container=name,
        num_frames=len(shown),
        avg_fps=float(rate) if rate else math.nan,
        stamps=np.array(in_order, dtype=np.int64) if is_stamped else None,
        key_stamps=np.array(sorted(key_stamps), dtype=np.int64),
        clean_keys=clean and _are_closed(stamps, key_stamps),
        hidden_frames=len(hidden),
    )


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its best video stream; FFmpeg's errors inside the block become VideoError.

    Its absolute path is given to FFmpeg, which takes what stands before a colon in a relative one for a protocol.

    Raises:
        VideoError: the file cannot be read, or holds no video.
    """
    import av

    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
                raise VideoError(f"cannot read video {path}: there is no video stream in it; {WAY_OUT}")
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(f"cannot read video {path}: {error.strerror or error}; {WAY_OUT}") from error


def _check_file(path: str) -> None:
    file = Path(path)
    try:
        if file.stat().st_size == 0:
            raise VideoError(f"cannot read video {path}: the file is empty; {WAY_OUT}")
        missing = missing_bytes(path)
    except OSError as error:
        raise VideoError(f"cannot read video {path}: {error.strerror}; check the path and the data folder") from error
    if missing:
        raise VideoError(f"cannot read video {path}: the file is cut off, {missing} bytes are missing; {WAY_OUT}")


def missing_bytes(path: str) -> int:
    """Count the bytes that a file lacks at its end, by the sizes in boxes (mp4), segment (mkv) or chunk (avi).

    Returns:
        0 where nothing is missing, or where the format declares no size (streams, MPEG-TS).

    Raises:
        OSError: the file cannot be read.
    """
    length = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == EBML:
            end = _matroska_end(file)
        elif head[:4] == b"RIFF":
            end = 8 + struct.unpack("<I", head[4:8])[0]
        elif head[4:8] in (b"ftyp", b"free", b"skip", b"wide", *MEDIA):
            end = _mp4_end(file, length)
        else:
            end = 0
    return max(0, end - length)


def _mp4_end(file: BinaryIO, length: int) -> int:
    start = 0
    while start < length:
        file.seek(start)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:  # the size follows in 8 bytes
            size = int.from_bytes(header[8:], "big")
        if size < 8 or (start + size > length and kind not in MEDIA):  # up to the end of the file, or no box
            return start
        start += size
    return start


def _matroska_end(file: BinaryIO) -> int:
    position = 0
    while True:
        file.seek(position)
        header = file.read(12)
        if len(header) < 5 or header[:4] not in (EBML, SEGMENT) or header[4] == 0:
            return 0
        width = 9 - header[4].bit_length()  # bytes of the size, by the leading zeros of its first
        value = int.from_bytes(header[4 : 4 + width], "big") - (1 << 7 * width)
        if value == (1 << 7 * width) - 1:  # unknown: a live recording
            return 0
        position += 4 + width + value
        if header[:4] == SEGMENT:
            return position


def _are_closed(stamps: list[int], key_stamps: list[int]) -> bool:
    """Whether each key frame is decoded after all that is shown before it, and before all that is shown after it."""
    place = {stamp: place for place, stamp in enumerate(stamps)}
    rank = {stamp: rank for rank, stamp in enumerate(sorted(place))}
    return all(place.get(stamp) == rank.get(stamp) for stamp in key_stamps)


def _is_clean(packet: Packet, stream: VideoStream) -> bool:
    """Whether frames are right from a key frame on; in H.264 some come right only later, where it is no IDR picture."""
    header = stream.codec_context.extradata
    if stream.codec_context.name != "h264":
        return True
    if not header or header[0] != 1:  # not in mp4's layout, where each unit has its length in front
        return False
    data, width, start = bytes(packet), (header[4] & 3) + 1, 0
    while start + width < len(data):
        if data[start + width] & 0x1F == 5:  # an IDR slice
            return True
        start += width + int.from_bytes(data[start : start + width], "big")
    return False
