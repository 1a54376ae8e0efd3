"""Files that end before their containers say so: demuxers often take these for shorter videos."""

import os
import struct
from typing import BinaryIO

MEDIA = (b"moov", b"mdat", b"moof")  # boxes that no reader can do without
SEGMENT = bytes.fromhex("18538067")  # the Matroska element that holds a whole video
EBML = bytes.fromhex("1A45DFA3")


def missing_bytes(path: str) -> int:
    """How many bytes the end of a file lacks, by the sizes that its boxes (mp4), segment (mkv) or chunk (avi) declare.

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
