"""Opening a video file, and whether all of it is there, by the sizes that its container declares."""

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lmms_kvtp.video.frames import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream
else:
    InputContainer = VideoStream = Any  # PyAV is imported where it is used

WAY_OUT = "replace or re-encode the file, or run with on_error=skip"
LARGEST_HOLE = 2**30
"""Bytes; a file with larger holes was not written to its end, and is not searched for frames."""
MEDIA = (b"moov", b"mdat", b"moof")  # boxes that no reader can do without
SEGMENT = bytes.fromhex("18538067")  # the Matroska element that holds a whole video
EBML = bytes.fromhex("1A45DFA3")


@contextmanager
def open_video(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its best video stream; FFmpeg's errors, in the block, too, and a file without video: VideoError.

    Its absolute path is given to FFmpeg, which takes what stands before a colon in a relative one for a protocol.
    """
    import av

    try:
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
                raise VideoError(f"cannot read video {path}: there is no video stream in it; {WAY_OUT}")
            if stream.codec_context is None:
                raise VideoError(f"cannot read video {path}: FFmpeg does not know its codec; {WAY_OUT}")
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(f"cannot read video {path}: {error.strerror or error}; {WAY_OUT}") from error


def check_file(path: str) -> None:
    """Refuse what is no file, or not all of one, in words: VideoError."""
    file = Path(path)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(f"cannot read video {path}: it is a pipe or device; write it to a file first")
        if status.st_size == 0:
            raise VideoError(f"cannot read video {path}: the file is empty; {WAY_OUT}")
        written = 512 * getattr(status, "st_blocks", 0)  # 0 where the system does not tell
        if 0 < written < status.st_size - LARGEST_HOLE:
            cause = f"only {written} of its {status.st_size} bytes were ever written"
            raise VideoError(f"cannot read video {path}: {cause}; download or copy it again")
        missing = missing_bytes(path)
    except OSError as error:
        raise VideoError(f"cannot read video {path}: {error.strerror}; check the path and the data folder") from error
    if missing:
        raise VideoError(f"cannot read video {path}: the file is cut off, {missing} bytes are missing; {WAY_OUT}")


def missing_bytes(path: str) -> int:
    """Count the bytes that a file lacks at its end, by the sizes in boxes (mp4), segment (mkv) or chunk (avi).

    0 where nothing is missing, or where the format declares no size (streams, MPEG-TS); raises OSError.
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
