"""decord, with which LLaVA-Video reads videos; it also reads damaged frames, without complaint."""

import os
import subprocess
import sys
from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor

from lmms_kvtp.video.container import open_video
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.index import VideoIndex, decode
from lmms_kvtp.video.pyav import mirror_axis
from lmms_kvtp.video.reader import Reader

CONTAINERS = ("mp4", "matroska")
NO_DUPLICATES = "0.0000001"
"""decord's fault_tol: the share of frames that it may replace by copies of others; for 0 it sets no limit."""
TRIAL = """import sys; sys.path[:] = {}; import av, decord
decord.VideoReader({!r}, num_threads={}, fault_tol={!r}).get_batch({})"""
TRIAL_SECONDS = 600.0


class DecordError(VideoError):
    """decord cannot read a video, or would give wrong frames."""


def objection(index: VideoIndex) -> str | None:
    """Say why decord would give wrong frames without an error; None where it gives the right ones.

    decord 0.6.0 counts frames from a key frame on, and so errs wherever fewer come out after a seek than lie between
    the key frame and the wanted one: open groups of pictures (x265 makes them unless told not to), gradual refresh,
    hidden frames, formats without an index.
    """
    if not any(name in index.container.split(",") for name in CONTAINERS):
        return f"it loses count of frames after a seek in {index.container.split(',')[0]} files"
    if index.stamps is None:
        return "it loses count of frames without time stamps of their own"
    if not index.clean_keys:
        return "it loses count of frames that are hidden, or reach across key frames"
    return None


class DecordReader(Reader):
    """Reads a file whose frames decord gets right."""

    def __init__(self, index: VideoIndex, num_threads: int, trial: Sequence[int] = ()) -> None:
        """Open the file.

        Args:
            index: the file's index.
            num_threads: threads that decode; 0 for as many as there are cores.
            trial: frames of a damaged file that another process reads first, since damage can make decord abort.

        Raises:
            DecordError: decord is not installed, has an `objection`, fails in the trial, or cannot open the file.
        """
        reason = objection(index)
        if reason:
            raise _error(index.path, reason)
        self._path = index.path
        try:
            import decord  # after PyAV, whose codec libraries decord's older ones would replace; the index needed it
        except (ImportError, OSError) as error:
            raise _error(index.path, "it is not installed here", error) from error
        if trial:
            _try(index.path, num_threads, trial)
        with open_video(index.path) as (container, stream):
            frame = next(decode(container, stream, False), None)
            self._flip = None if frame is None else mirror_axis(frame)  # decord turns frames and does not mirror them
        self._errors = (decord.DECORDError, decord.DECORDLimitReachedError, AssertionError, RuntimeError)
        self._as_torch = decord.bridge.use_torch
        try:
            self._reader = decord.VideoReader(
                os.path.abspath(index.path), num_threads=num_threads, fault_tol=NO_DUPLICATES
            )
        except self._errors as error:
            raise _error(index.path, "it cannot open it", error) from error
        if len(self._reader) != index.num_frames:
            detail = f"{len(self._reader)} where {index.num_frames} are"
            raise _error(index.path, "it finds another number of frames", detail)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "t H W 3"]:
        """Decode frames; DecordError where decord fails, or would put a copy of another frame in the place of one."""
        try:
            with self._as_torch():
                frames: Tensor = self._reader.get_batch(list(indices))
        except self._errors as error:
            raise _error(self._path, "it fails to decode it", error) from error
        return frames if self._flip is None else frames.flip(1 + self._flip)

    def close(self) -> None:
        """Close the file and end the threads."""
        del self._reader


def _try(path: str, num_threads: int, indices: Sequence[int]) -> None:
    program = TRIAL.format(sys.path, os.path.abspath(path), num_threads, NO_DUPLICATES, list(indices))
    try:
        code = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=TRIAL_SECONDS).returncode
    except subprocess.TimeoutExpired as error:
        raise _error(path, f"it takes longer than {TRIAL_SECONDS:g} s") from error
    if code < 0:  # an error of Python's comes again here, and is told better
        raise _error(path, f"it ends its process (signal {-code})")


def _error(path: str, reason: str, detail: object = "") -> DecordError:
    cause = ": ".join([reason, *str(detail).strip().splitlines()[:1]])
    return DecordError(f"decord cannot read video {path}: {cause}; set video_decode_backend=auto")
