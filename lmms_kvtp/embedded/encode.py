"""Scripts to H.264 mp4 files."""

import io
import os
import tempfile
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av

from lmms_kvtp.embedded.draw import draw
from lmms_kvtp.embedded.script import SIZE, Script

CRF = 28
PRESET = "veryfast"
KEY_FRAME_EVERY = 48
REPEATABLE = "threads=1:mbtree=0"  # with mbtree, frames this small give other bytes at each run
PART = ".part"  # ends the names of unfinished files


def encode_bytes(script: Script) -> bytes:
    """The video as an mp4 file in memory: libx264, yuv420p, constant rate factor 28, real compression artefacts."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(script.fps).limit_denominator(1000)
        options = {"crf": str(CRF), "preset": PRESET, "g": str(KEY_FRAME_EVERY), "x264-params": REPEATABLE}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(script.num_frames):
            time = index / script.fps
            frame = av.VideoFrame.from_ndarray(draw(script.shot_at(time), time), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def encode(script: Script, path: str | os.PathLike[str]) -> None:
    """Write the video to `path`; a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: the folder cannot be written.
    """
    write_whole(Path(path), encode_bytes(script))


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` by way of a temporary file in the same folder."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
