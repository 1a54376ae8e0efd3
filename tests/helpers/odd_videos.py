"""Files that are made by hand: packets in odd order, clips without a beginning, packed and hidden frames."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.bitstream import BitStreamFilterContext

Change = Callable[[list[Any]], Sequence[Any]]


def remux(source: Path, path: Path, change: Change, bits: str | None = None) -> Path:
    """Write the packets of a video's stream to another file, changed, without encoding; `bits` filters them before."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        packets = [packet for packet in old.demux(stream) if packet.size]
        if bits:
            sieve = BitStreamFilterContext(bits, stream)
            packets = [one for packet in packets for one in sieve.filter(packet)]
        copy = new.add_stream_from_template(stream, opaque=True)
        for packet in change(packets):
            packet.stream = copy
            new.mux(packet)
    return path


def from_packet(first: int) -> Change:
    """Leave out the packets before `first`: a recording that begins inside a group of pictures."""
    return lambda packets: packets[first:]


def from_second_key(packets: list[Any]) -> list[Any]:
    """Leave out the first group of pictures, whose frames some of the next may need."""
    return packets[[number for number, packet in enumerate(packets) if packet.is_keyframe][1] :]


def later(ticks: int) -> Change:
    """Shift all times."""

    def change(packets: list[Any]) -> list[Any]:
        for packet in packets:
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packets

    return change


def join_unseen(path: Path, *parts: Path) -> Path:
    """Join MPEG-TS files and count their packets anew, so that nothing but the clock shows the seam."""
    data, counters = bytearray(b"".join(part.read_bytes() for part in parts)), dict[int, int]()
    for start in range(0, len(data), 188):
        stream = int.from_bytes(data[start + 1 : start + 3], "big") & 0x1FFF
        if data[start + 3] & 0x10:  # it has a payload
            counters[stream] = counters.get(stream, -1) + 1
        data[start + 3] = data[start + 3] & 0xF0 | counters.get(stream, 0) & 0xF
    path.write_bytes(data)
    return path


def in_order_of_decoding(packets: list[Any]) -> list[Any]:
    """Give packets the time of their decoding as time of presentation, although frames change places."""
    step = min(b.dts - a.dts for a, b in pairwise(packets))
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number * step
    return packets


def stamped(packets: list[Any]) -> list[Any]:
    """Give packets that a filter split off a time of their own, just before the next."""
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = 40 * number
    return packets


def hiding(number: int) -> Change:
    """Clear VP8's "show" bit of one packet."""

    def change(packets: list[Any]) -> list[Any]:
        data = bytearray(bytes(packets[number]))
        assert data[0] & 0x10
        data[0] &= ~0x10
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packets[number].pts, packets[number].dts, packets[number].time_base
        return [*packets[:number], hidden, *packets[number + 1 :]]

    return change


def repeating(*numbers: int, rest: bytes = b"") -> Change:
    """Put MPEG-4's word for "as before" in the place of packets of a video of 10 frames a second; `rest` follows it."""

    def change(packets: list[Any]) -> list[Any]:
        for number in numbers:
            old, bits = packets[number], 0b0101 << 12 | number % 10 << 8 | 0b10011111
            packets[number] = new = av.Packet(b"\0\0\1\xb6" + bits.to_bytes(2, "big") + rest)
            new.pts, new.dts, new.time_base, new.duration = old.pts, old.dts, old.time_base, old.duration
        return packets

    return change


def pack(source: Path, path: Path) -> Path:
    """Put each reference frame of MPEG-4 and its first B-frame into one chunk of an AVI file, as DivX did."""
    with av.open(str(source)) as container:
        head = bytes(container.streams.video[0].codec_context.extradata or b"")
        frames = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    start = frames[0].index(b"\0\0\1\xb6")
    before = frames[0][:start] if b"\0\0\1\x20" in frames[0][:start] else head + frames[0][:start]
    frames[0] = before + b"\0\0\1\xb2DivX503b1393p" + frames[0][start:]
    chunks: list[bytes] = []
    while frames:
        between = next((place for place, data in enumerate(frames[1:]) if _kind(data) != 2), len(frames) - 1)
        group, frames = frames[: between + 1], frames[between + 1 :]
        chunks += [group[0] + group[1], *group[2:], b"\0\0\1\xb6\x51\x00\x7f"] if between else group
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_tag = 96, 64, "yuv420p", "XVID"
        for number, data in enumerate(chunks):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, _kind(data) == 0
            container.mux(packet)
    return path


def _kind(data: bytes) -> int:
    return data[data.index(b"\0\0\1\xb6") + 4] >> 6  # 0 I, 1 P, 2 B


def passthrough(path: Path) -> int | None:
    """Count the frames that the ffmpeg program shows; None where it is not installed."""
    program = shutil.which("ffmpeg")
    if not program:
        return None
    command = [program, "-v", "quiet", "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framehash"]
    lines = subprocess.run([*command, "-"], capture_output=True, text=True, check=False).stdout.splitlines()
    return sum(not line.startswith("#") for line in lines)
