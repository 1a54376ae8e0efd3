"""Resized frames on disk, so that the next run neither decodes nor resizes them.

One file for each chunk of frames and each way to resize it: a hash of the rest, the shape, the bytes. Names are hashes
of everything that the bytes depend on, so an entry is never out of date, only unused. Several processes may share a
folder: a file appears whole or not at all, and one process at a time makes room and writes.
"""

import hashlib
import logging
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import UInt8
from torch import Tensor

from lmms_kvtp.files import PART, fingerprint
from lmms_kvtp.video.pixels import PixelSpec

log = logging.getLogger(__name__)

GIB = 2**30
MAKERS = ("av", "decord", "pillow", "torch")
"""Packages of which another version may make other bytes."""
EDITION = 2
"""Grows when the same file gives other frames: 2 mirrors and counts as players do."""
SUFFIX = ".frames"
STALE_SECONDS = 3600.0
"""Age from which an unfinished file has no writer any more."""
ROOM = 0.9
"""Share of the limit that is left when the oldest entries have made room."""
_HASH, _COUNT, _SHAPE = 32, 16, struct.Struct(">4I")


class FrameCache:
    """A folder of resized frames, of a limited size; a run goes on where it cannot be written."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Remember folder and limit; nothing is read or written yet.

        ValueError where the limit leaves no room for anything.
        """
        if limit_bytes < 1:
            raise ValueError(f"a frame cache of {limit_bytes} bytes holds nothing; give a limit above 0, or no folder")
        self.folder, self.limit_bytes = folder, limit_bytes
        self._specs: set[PixelSpec] = set()
        self._is_writable = True
        self._has_listed = False

    def shelf(self, video: str, backend: str) -> "Shelf":
        """Give access to the entries of one video file, as one decoder reads it: another may refuse what is damaged.

        OSError where there is no such file.
        """
        return Shelf(self, f"{fingerprint(Path(video))}-{os.stat(video).st_mtime_ns} {backend}")

    def has(self, frames: str) -> bool:
        """Whether each tower that ever asked, or any where none did, has an entry of those frames; none is read."""
        wanted = [_name(frames, spec) for spec in self._specs] or [_name(frames)]
        return all(any(self.folder.glob(name)) for name in wanted)

    def get(self, name: str, spec: PixelSpec) -> UInt8[Tensor, "T h w 3"] | None:
        """Read an entry; None where there is none, or a damaged one."""
        self._specs.add(spec)
        path = self.folder / name
        try:
            with path.open("rb") as file:
                frames = _read(file)
        except (FileNotFoundError, NotADirectoryError):
            frames = None
        except ValueError as error:
            log.warning("the frame cache has a damaged entry, which is made again: %s: %s", path, error)
            frames = None
        except OSError as error:
            self._give_up(error)
            frames = None
        return frames

    def put(self, name: str, frames: UInt8[Tensor, "T h w 3"]) -> None:
        """Keep an entry. The first failure to write is reported, and then nothing is written any more."""
        if not self._is_writable:
            return
        content = _SHAPE.pack(*frames.shape) + frames.contiguous().numpy().tobytes()
        size = _HASH + len(content)
        if size > self.limit_bytes:
            return
        part = self.folder / f".{name}.{os.getpid()}{PART}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / ".lock") as ledger:
                self._make_room(ledger, size)
                with part.open("wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                part.replace(self.folder / name)
        except OSError as error:
            self._give_up(error)
            with suppress(OSError):
                part.unlink()

    def _give_up(self, error: OSError) -> None:
        if self._is_writable:
            self._is_writable = False
            log.warning(
                "the frame cache keeps no more frames in this run: %s; free space in %s, or name a folder of yours",
                error,
                self.folder,
            )

    def _make_room(self, ledger: BinaryIO, size: int) -> None:
        """Count `size` more bytes in the ledger; where they are too many, remove the oldest entries first.

        The ledger saves listing the folder for each entry. What it does not know of (files removed or copied by hand, a
        writer that crashed) is found when the folder is listed: once by each process, where the ledger is damaged, and
        before anything is removed.
        """
        count = ledger.read()
        held = int.from_bytes(count, "little")
        if not self._has_listed or len(count) != _COUNT or held + size > self.limit_bytes:
            self._has_listed, entries = True, sorted(self._entries())
            held = sum(length for _, length, _ in entries)
            most = self.limit_bytes * (ROOM if held + size > self.limit_bytes else 1)
            while entries and held + size > most:
                _, length, path = entries.pop(0)
                with suppress(FileNotFoundError):
                    os.unlink(path)
                held -= length
        ledger.seek(0)
        ledger.write((held + size).to_bytes(_COUNT, "little"))
        ledger.truncate()  # behind a damaged count; writes it, too

    def _entries(self) -> list[tuple[int, int, str]]:
        """List time, length and path of each entry, and remove what crashed writers left."""
        entries = []
        with os.scandir(self.folder) as files:
            for file in files:
                with suppress(FileNotFoundError):  # another process has just removed or renamed it
                    status = file.stat()
                    if file.name.endswith(SUFFIX):
                        entries.append((status.st_mtime_ns, status.st_size, file.path))
                    elif file.name.endswith(PART) and time.time() - status.st_mtime > STALE_SECONDS:
                        os.unlink(file.path)
        return entries


@dataclass(frozen=True)
class Shelf:
    """The cache entries of one video."""

    cache: FrameCache = field(repr=False)
    video: str
    """Content and time of the last change of the file, and who decodes it."""

    def has(self, indices: Sequence[int], fast: bool) -> bool:
        """Whether these frames need not be decoded, as far as it is known which towers will ask."""
        return self.cache.has(self._frames(indices, fast))

    def shrink(
        self, spec: PixelSpec, rgb: Callable[[], UInt8[Tensor, "T H W 3"]], indices: Sequence[int], fast: bool
    ) -> UInt8[Tensor, "T h w 3"]:
        """Implements `Shrink`: takes frames from the cache, or makes and keeps them."""
        if type(spec).__repr__ is object.__repr__:  # it does not say what it does
            return spec.resize(rgb(), fast)
        name = _name(self._frames(indices, fast), spec)
        frames = self.cache.get(name, spec)
        if frames is None:
            frames = spec.resize(rgb(), fast)
            self.cache.put(name, frames)
        return frames

    def _frames(self, indices: Sequence[int], fast: bool) -> str:
        return _hash(EDITION, self.video, tuple(indices), fast, makers())


def _name(frames: str, spec: PixelSpec | None = None) -> str:
    """Name an entry; without `spec`, a pattern of all entries of these frames."""
    return f"{frames}-{'*' if spec is None else _hash(type(spec).__module__, repr(spec))}{SUFFIX}"


def _hash(*told: object) -> str:
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def _read(file: BufferedReader) -> UInt8[Tensor, "T h w 3"]:
    digest, content = file.read(_HASH), bytearray(max(0, os.fstat(file.fileno()).st_size - _HASH))
    if file.readinto(content) != len(content) or hashlib.sha256(content).digest() != digest:
        raise ValueError("its hash is another")
    return torch.frombuffer(content, dtype=torch.uint8, offset=_SHAPE.size).view(_SHAPE.unpack_from(content))


@cache
def makers() -> tuple[str, ...]:
    """List names and versions of the packages that decide the bytes of frames."""
    return tuple(f"{name} {_version(name)}" for name in MAKERS)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for one process at a time; where the system has no such locks, for any number."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        with suppress(PermissionError):  # whoever may write in the folder takes turns; it is another user's file
            os.fchmod(file.fileno(), path.parent.stat().st_mode & 0o666)
        try:
            import fcntl
        except ImportError:
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
