"""Which frames a video file shows, and when: from its packets, or by decoding it once where these cannot be trusted."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmms_kvtp.files import content_key, home, write_atomically
from lmms_kvtp.video.container import WAY_OUT, check_file, open_video
from lmms_kvtp.video.frames import VideoError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream
else:
    InputContainer = Packet = VideoFrame = VideoStream = Any  # PyAV is imported where it is used

log = logging.getLogger(__name__)

_MPEG = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3")
TIMELESS = {"avi": _MPEG, "asf": _MPEG, "mpegvideo": _MPEG, "gif": ("gif",), "apng": ("apng",)}
"""Formats, and codecs in them, whose packets do not say which frame is shown when, or from where on it is whole."""
SHORT = {"mpeg4": 32}
"""Bytes below which a packet may hold no frame, but the word to show the last one again."""
NO_STAMP = -(2**63)
TS_DISCONT = 0x0200
"""FFmpeg's flag of formats that are joined by writing one behind the other: clocks begin anew, packets seem damaged."""
LONGEST_GAP = 10.0
"""Seconds; in such formats a longer gap is a new beginning (FFmpeg's limit)."""
EVEN = 0.5
"""Seconds by which a frame may be off the mean rate in a video that counts as even."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Frames of a file's first video stream, as a player shows them."""

    path: str
    container: str
    """FFmpeg's names of the format, comma-separated."""
    num_frames: int
    avg_fps: float
    """Frames per second by their time stamps; the header's, where both agree within a frame."""
    frame_bytes: int
    """Bytes of a decoded frame, as far as the header knows."""
    seconds: NDArray[np.float64] | None = field(repr=False)
    """Time of each frame from the first; None where `avg_fps` tells it within EVEN seconds."""
    stamps: NDArray[np.int64] | None = field(repr=False)
    """Presentation time of each frame, ascending; None where frames can only be counted from the start."""
    key_stamps: NDArray[np.int64] = field(repr=False)
    """Presentation times of key frames, ascending, those before the first frame shown included."""
    clean_keys: bool
    """Whether header or packets tell as many frames as are shown, and every key frame starts afresh: no frame after it,
    in either order, needs one before it."""


def read_index(path: str) -> VideoIndex:
    """Find a video's frames; VideoError where there is no such file, no video or frame in it, or a part is missing."""
    check_file(path)
    stamps: list[int | None] = []  # of frames that are shown, in order of decoding
    clock: list[int | None] = []  # when each packet is decoded
    keys: list[int | None] = []
    clean, damaged, begins, short = True, False, True, False
    with open_video(path) as (container, stream):
        name, codec = container.format.name, stream.codec_context.codec.canonical_name
        is_shown, restarts = SHOWN.get(codec), bool(container.format.flags & TS_DISCONT)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                if not restarts:
                    raise VideoError(f"cannot read video {path}: it is cut off or damaged; {WAY_OUT}")
                damaged = True
            if packet.size == 0:  # the end, or a frame again
                continue
            if packet.is_keyframe:
                keys.append(packet.pts)
                clean = clean and _is_clean(packet, stream)
            elif not clock:
                begins = False
            if not packet.is_discard and (is_shown is None or is_shown(memoryview(packet))):
                stamps.append(packet.pts)
            clock.append(packet.dts)
            short = short or packet.size < SHORT.get(codec, 0)
        header = float(stream.average_rate or stream.guessed_rate or math.nan)
        tick, reorders, told = float(stream.time_base or 1), stream.codec_context.has_b_frames, stream.frames
        frame_bytes = 3 * stream.width * stream.height
    if not clock:
        raise VideoError(f"cannot read video {path}: it has no frames; {WAY_OUT}")
    decoded, key_stamps, times = _known(stamps), np.unique(_known(keys)), _known(clock)
    shown, is_listed, is_seekable = np.unique(decoded), codec in TIMELESS.get(name, ()), True
    doubts = {
        f"{name} files do not tell when a frame of {codec} is shown": is_listed,
        "it did not show what its packets announce when it was read": _kept(path).exists(),
        "some of its packets may show no frame": short,
        "packets are flagged as damaged": damaged,
        "it begins inside a group of pictures": not begins,
        "frames have no time stamps of their own": len(shown) < max(1, len(stamps)),
        "its clock begins anew": (np.diff(times) < 0).any(),
        "frames before the first key frame come after it": (shown[:1] < key_stamps[:1]).any(),
        "frames change places and their time stamps do not": reorders
        and len(shown) > 1
        and (np.diff(decoded) > 0).all(),
    }
    if doubt := next((reason for reason, holds in doubts.items() if holds), ""):
        found = decoded_stamps(path, doubt, len(key_stamps) > 0, _kept(path))
        rises = (np.diff(found) > 0).all() and len(key_stamps) and key_stamps[0] <= found[0]
        is_seekable, clean, shown = bool(rises) and not is_listed, clean and np.array_equal(found, shown), found
    beats = (shown, len(shown)) if is_seekable else (times, len(clock))
    fps, seconds = _timing(*beats, len(shown), tick, header, restarts)
    return VideoIndex(
        path=path,
        container=name,
        num_frames=len(shown),
        avg_fps=fps,
        frame_bytes=frame_bytes,
        seconds=seconds,
        stamps=shown if is_seekable else None,
        key_stamps=key_stamps,
        clean_keys=clean and (told or len(clock)) == len(shown) and _are_closed(decoded, shown, key_stamps),
    )


def shows_others(index: VideoIndex) -> bool:
    """Decode a file that did not show a frame of its index; whether it has others, which its next index then tells."""
    doubt = "a frame that its packets announce does not come"
    found = decoded_stamps(index.path, doubt, len(index.key_stamps) > 0, _kept(index.path))
    return not np.array_equal(found, index.stamps if index.stamps is not None else found)


def _kept(path: str) -> Path:
    """Where the stamps of a file's frames are kept once they are found by decoding it."""
    status = os.stat(path)
    key = content_key(os.path.abspath(path), status.st_size, status.st_mtime_ns, version("av"))
    return home() / "frame_stamps" / key


@lru_cache(maxsize=128)
def decoded_stamps(path: str, doubt: str, has_keys: bool, kept: Path) -> NDArray[np.int64]:
    """Decode a file once, and list the stamps of its frames as they come, unless they are kept."""
    with suppress(OSError, ValueError):
        return np.frombuffer(kept.read_bytes(), dtype=np.int64)
    log.info("%s: %s, so that its frames are found by decoding it once", path, doubt)
    with open_video(path) as (container, stream):
        stamps = [NO_STAMP if frame.pts is None else frame.pts for frame in decode(container, stream, has_keys)]
    if not stamps:
        raise VideoError(
            f"cannot read video {path}: no frame of it decodes, it may be encrypted, or lack its beginning; {WAY_OUT}"
        )
    found = np.array(stamps, dtype=np.int64)
    with suppress(OSError):  # then the next process decodes it again
        write_atomically(kept, found.tobytes())
    return found


def decode(container: InputContainer, stream: VideoStream, has_keys: bool) -> Iterator[VideoFrame]:
    """Decode a stream from here on; packets that do not decode are left out, as players do."""
    import av

    from_key = has_keys and stream.codec_context.name == "hevc"  # it shows what it cannot know, up to FFmpeg 7
    for packet in container.demux(stream):
        from_key = from_key and packet.size > 0 and not packet.is_keyframe
        if not from_key and (packet.size or packet.dts is None):
            with suppress(av.FFmpegError):
                yield from stream.codec_context.decode(packet)


def _known(stamps: list[int | None]) -> NDArray[np.int64]:
    return np.array([stamp for stamp in stamps if stamp is not None], dtype=np.int64)


def _timing(
    clock: NDArray[np.int64], num_packets: int, num_frames: int, tick: float, header: float, restarts: bool
) -> tuple[float, NDArray[np.float64] | None]:
    """Measure frames per second, and each frame's second where these are uneven.

    `clock` counts ticks: when each frame is shown, or each packet decoded. Where it begins anew, a usual step is put.
    The header's rate stands where it is right within a frame.
    """
    steps = np.diff(clock) * tick
    anew = (steps < 0) | (restarts & (steps > LONGEST_GAP))
    steps[anew] = np.median(steps[~anew]) if not anew.all() else 0.0
    seconds = np.concatenate([[0.0], np.cumsum(steps)])
    if not seconds[-1] > 0:
        return header, None
    fps = float(len(steps) / seconds[-1]) * num_frames / num_packets
    if abs(num_frames / header - num_frames / fps) <= 1 / fps:
        fps = header
    is_even = len(clock) != num_frames or bool((abs(seconds - np.arange(num_frames) / fps) <= EVEN).all())
    return fps, None if is_even else seconds


def _vp9_is_shown(data: memoryview) -> bool:
    """Whether a packet shows its frame; of several frames (a superframe, told by its last byte), one is shown."""
    if data[0] & (0x05 if data[0] & 0x30 == 0x30 else 0x0A):  # profile 3 has one more bit before
        return True
    size = 2 + (1 + (data[-1] >> 3 & 3)) * (1 + (data[-1] & 7))
    return data[-1] & 0xE0 == 0xC0 and size <= len(data) and data[-size] == data[-1]


def _av1_is_shown(data: memoryview) -> bool:
    """Whether one of a packet's units is a frame, or the header of one, that is shown."""
    at, end = 0, len(data)
    while at < end - 1:
        kind, size = data[at], end
        at += 2 if kind & 4 else 1
        if kind & 2 and at < end:
            size, shift = data[at] & 127, 0
            while data[at] > 127 and at < end - 1:  # 7 bits in each byte
                at, shift = at + 1, shift + 7
                size |= (data[at] & 127) << shift
            at += 1
        if kind & 0x78 in (0x18, 0x30) and at < end and data[at] & 0x90:
            return True
        at += size
    return False


SHOWN: dict[str, Callable[[memoryview], bool]] = {
    "vp8": lambda data: bool(data[0] & 0x10),
    "vp9": _vp9_is_shown,
    "av1": _av1_is_shown,
}
"""Codecs that hide frames, and how the first bytes of a packet tell whether it shows one."""


def _are_closed(decoded: NDArray[np.int64], shown: NDArray[np.int64], keys: NDArray[np.int64]) -> bool:
    """Whether each key frame is decoded after all that is shown before it, and before all that is shown after it."""
    places = np.flatnonzero(np.isin(decoded, keys))
    return bool((np.searchsorted(shown, decoded[places]) == places).all())


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
