"""Small video files whose frames show their own number."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from torch import Tensor

from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.index import read_index
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.pyav import DamagedError
from lmms_kvtp.video.sampling import FrameOptions

BITS = 7


def draw(number: int, width: int, height: int) -> np.ndarray:
    """One upright stripe per bit of the number, bright for 1; coloured, so that a wrong conversion shows."""
    picture = np.full((height, width, 3), (60, 30, 90), dtype=np.uint8)
    for bit, stripe in enumerate(np.array_split(np.arange(width), BITS)):
        if number >> bit & 1:
            picture[:, stripe] = (200, 230, 160)
    return picture


@pytest.fixture
def numbers() -> Callable[[Tensor], list[int]]:
    """Read what frames [T, H, W, 3] show."""

    def read(rgb: Tensor) -> list[int]:
        stripes = rgb[..., 1].float().tensor_split(BITS, dim=2)
        return sum((stripe.mean(dim=(1, 2)) > 130).long() << bit for bit, stripe in enumerate(stripes)).tolist()

    return read


@pytest.fixture(autouse=True)
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what an earlier one kept of a file."""
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Encode a file whose frames show 0, 1, 2, ..., once for all tests; skips the test where the codec is not here."""
    made: dict[str, Path] = {}

    def make(name: str = "clip.mp4", **settings: Any) -> Path:
        what = repr((name, settings))
        if what not in made:
            path = tmp_path_factory.mktemp("clip") / name
            encode(path, **settings)
            made[what] = path
        return made[what]

    return make


@pytest.fixture
def damaged(clip: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy a clip of 50 frames, with one wrong bit, which PyAV sees and decord does not."""

    def make(name: str = "clip.mp4") -> Path:
        whole, path = clip(name).read_bytes(), tmp_path / name
        for place in range(200, 2000, 20):
            data = bytearray(whole)
            data[len(data) * place // 2200] ^= 0x10
            path.write_bytes(data)
            try:
                if read_index(str(path)).num_frames == 50:  # the bit is none of the header's
                    decode_all(path, "pyav")
            except DamagedError:
                if name != "clip.mp4" or decord_reads(path):
                    return path
            except VideoError:
                continue
        raise AssertionError("no bit does it")

    return make


def decode_all(path: Path, backend: str) -> None:
    for _ in load_video(path, FrameOptions(max_frames_num=50, force_sample=True, backend=backend)).chunks():
        pass


def decord_reads(path: Path) -> bool:
    try:
        decode_all(path, "decord")
    except VideoError:
        return False
    return True


def encode(
    path: Path,
    num_frames: int = 50,
    size: tuple[int, int] = (96, 64),
    rate: float = 10.0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    stamps: Sequence[int] | None = None,
    color: tuple[int, int] | None = None,
) -> None:
    """Write a file; key frames are 12 frames apart; `stamps` are in tenths of a second, `color` is range and matrix."""
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec} here")
    with av.open(str(path), "w", container_options=muxer or {}) as container:
        exact_rate = Fraction(rate).limit_denominator(100000)
        stream: Any = container.add_stream(codec, rate=exact_rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, pix_fmt, 12
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 10)
        if color is not None:
            stream.codec_context.color_range, stream.codec_context.colorspace = color
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw(number, *size), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
