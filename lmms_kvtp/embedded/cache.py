"""The folder of encoded videos: made on first use, checked at every use, shared by any number of processes."""

import hashlib
import logging
import os
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from lmms_kvtp.embedded import VERSION
from lmms_kvtp.embedded.draw import encode_bytes
from lmms_kvtp.embedded.script import Script, write_script
from lmms_kvtp.files import HOME_VARIABLE, PART, home, write_atomically

MEAN_BYTES = 110_000  # of a video
STALE_SECONDS = 3600.0  # an unfinished file of this age has no writer any more

_SEAL = struct.Struct(">I4s16s16s32s")  # an mp4 box that players skip: size, "free", magic, script, content
_MAGIC = b"lmms_kvtp synth\0"

Progress = Callable[[int, int], None]
log = logging.getLogger(__name__)


class CacheError(OSError):
    """The cache folder cannot be read or written."""


def folder() -> Path:
    """Name the folder of this version's videos, below the package's home."""
    return home() / f"synth-v{VERSION}"


def ensure(split: str, seeds: Iterable[int], progress: Progress | None = None) -> dict[str, Path]:
    """Make the videos that are missing, damaged or of another version; several processes may do so at once.

    Returns the path of each video, by its script's key, in the order of `seeds`. `progress` is called after each that
    is made, with the number done and the number to do. CacheError where the folder is read-only, full or no folder.
    """
    scripts = [write_script(seed, split) for seed in seeds]
    paths = {script.key: folder() / f"{script.key}.mp4" for script in scripts}
    lacking = [script for script in scripts if not _is_whole(paths[script.key], script)]
    if lacking:
        prepare(len(lacking))
        log.info("making %d synthetic videos in %s", len(lacking), folder())
    turn = os.getpid() % max(1, len(lacking))  # processes start at different videos and share the work
    for done, script in enumerate(lacking[turn:] + lacking[:turn], start=1):
        if not _is_whole(paths[script.key], script):
            content = encode_bytes(script)
            try:
                write_atomically(paths[script.key], content + _seal(content, script))
            except OSError as error:
                raise _cache_error(error, len(lacking) - done + 1) from error
        if progress is not None:
            progress(done, len(lacking))
    return paths


def video(split: str, seed: int) -> Path:
    """Find one video, and make it if need be; raises as `ensure` does."""
    (path,) = ensure(split, [seed]).values()
    return path


def prepare(num_videos: int) -> None:
    """Create the folder, and sweep what crashed processes left, before `num_videos` are written to it.

    CacheError where the folder cannot be created or written.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
        for part in folder().glob(f".*{PART}"):
            with suppress(FileNotFoundError):  # its writer has just finished, or another process swept it
                if time.time() - part.stat().st_mtime > STALE_SECONDS:
                    part.unlink()
        probe = folder() / f".probe-{os.getpid()}"
        write_atomically(probe, b"")
        probe.unlink()
    except OSError as error:
        raise _cache_error(error, num_videos) from error


def fingerprint(script: Script) -> bytes:
    """Hash a script and the generator's version, in 16 bytes."""
    return hashlib.sha256(f"{VERSION}:{script!r}".encode()).digest()[:16]


def _seal(content: bytes, script: Script) -> bytes:
    return _SEAL.pack(_SEAL.size, b"free", _MAGIC, fingerprint(script), hashlib.sha256(content).digest())


def _is_whole(path: Path, script: Script) -> bool:
    """Whether this version made the file from this script, and nobody has cut or changed it since."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _cache_error(error, 1) from error
    content, seal = data[: -_SEAL.size], data[-_SEAL.size :]
    return seal == _seal(content, script)


def _cache_error(error: OSError, num_videos: int) -> CacheError:
    megabytes = max(1, round(num_videos * MEAN_BYTES / 1e6))
    return CacheError(
        f"cannot use the cache folder {folder()} for {num_videos} more synthetic video{'s' * (num_videos != 1)} "
        f"(about {megabytes} MB): {error}; free some space there, or set {HOME_VARIABLE} to a writable folder"
    )
