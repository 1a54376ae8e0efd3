"""Step 1: the folder of a data set's videos, archives that are unpacked into it, their sampled frames and clips."""

import errno
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, cast

import torch

from lmms_kvtp.files import PIECE, content_key, fingerprint, is_inside, write_atomically
from lmms_kvtp.skvqa.entry import CLIP_SIZE, clip_bounds
from lmms_kvtp.skvqa.layouts import LayoutError, missing_message
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.video.frames import Frames, VideoError
from lmms_kvtp.video.load import VIDEO_SUFFIXES, SampledVideo, image_files, is_video, load_video
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.video.sampling import FrameOptions


@dataclass(frozen=True)
class Clips:
    """A sampled video, without its pixels."""

    path: Path
    key: str
    """Hash of the file's content and of which frames are sampled."""
    num_frames: int
    duration: float
    times: tuple[float, ...]
    """Seconds of the frames."""
    options: FrameOptions
    clip_size: int

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """First and last frame of each clip."""
        return clip_bounds(self.num_frames, self.clip_size)

    @property
    def edges(self) -> tuple[tuple[float, float], ...]:
        """Start and end of each clip in seconds: it ends where the next begins, the last with the video."""
        starts = [self.times[first] for first, _ in self.bounds]
        ends = [*starts[1:], max(self.duration, self.times[-1])]
        return tuple(zip(starts, ends, strict=True))

    def frames(self, clip: int) -> Frames:
        """Decode the frames of one clip; VideoError where the file cannot be read, or is no longer what was sampled."""
        first, last = self.bounds[clip]
        part = slice(first, last + 1)
        video = _opened(self.path, self.key, replace(self.options, chunk_size=self.clip_size))
        if len(video.indices) != self.num_frames:
            raise VideoError(f"{self.path} has changed since its frames were chosen; start again")
        chosen = replace(video, indices=video.indices[part], times=video.times[part])
        parts = [frames.rgb for frames in chosen.chunks()]  # several where frames are large, or change size
        height, width = parts[0].shape[1:3]
        return Frames(torch.cat(list(map(ResizedPixels((height, width)).resize, parts))), chosen.times)


def sample_clips(path: Path, store: Store, options: FrameOptions, clip_size: int = CLIP_SIZE) -> Clips:
    """Choose the frames of a file, or of a folder of frames, by LLaVA-Video's rule; the store remembers them.

    VideoError where the file cannot be read.
    """
    mark = video_fingerprint(path)
    key = content_key("frames", mark, options.max_frames_num, options.fps, options.force_sample, clip_size)
    known = store.get(key)
    if known is None:
        video = load_video(path, options)
        known = json.dumps([video.duration, [round(time, 3) for time in video.times.tolist()]])
        store.put(key, known, "frames")
    duration, times = json.loads(known)
    return Clips(path, key, len(times), float(duration), tuple(map(float, times)), options, clip_size)


def video_fingerprint(path: Path) -> str:
    """Fingerprint a video file, or a folder of frames by the names and sizes of all and the content of three of them.

    VideoError where a folder has no frames.
    """
    if path.is_dir():
        files = [Path(file) for file in image_files(path)]
        sizes = [(file.name, file.stat().st_size) for file in files]
        return content_key(sizes, [fingerprint(files[number]) for number in (0, len(files) // 2, -1)])
    return fingerprint(path)


@lru_cache(maxsize=16)
def _opened(path: Path, key: str, options: FrameOptions) -> SampledVideo:
    """A sampled file with its packet index, which is large: only those of a few videos stay, for their next clips."""
    return load_video(path, options)


MOST_GROWTH, LEAST_LIMIT = 20, 2**26
"""Most bytes that a byte of an archive may become, where all are more than LEAST_LIMIT: videos hardly shrink."""
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, RuntimeError, ValueError, IndexError)
"""Errors of libraries that unpack a damaged archive."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
"""Numbers of errors that no other download would mend."""


class ArchiveError(ValueError):
    """An archive is damaged, or has a member that would leave the folder."""


@dataclass(frozen=True)
class VideoFolder:
    """The videos below a folder, by their name without extension: files, and folders of frames."""

    root: Path
    found: Mapping[str, tuple[Path, ...]]

    def find(self, name: str) -> Path | None:
        """Find the video of that name anywhere below the folder; of several, the one in the named subfolder."""
        wanted = PurePosixPath(name)
        stem = wanted.stem if wanted.suffix.lower() in (*VIDEO_SUFFIXES, ".gif") else wanted.name
        paths = self.found.get(stem, ())
        if len(paths) > 1:
            inside = [path for path in paths if path.parent.as_posix().endswith(wanted.parent.as_posix())]
            paths = tuple(inside) or paths
        return paths[0] if paths else None

    def find_all(self, dataset: str, names: Iterable[str], skip_missing: bool = False) -> dict[str, Path]:
        """Find all files; LayoutError lists those that are missing, which are left out if `skip_missing`."""
        paths = {name: self.find(name) for name in dict.fromkeys(names)}
        missing = [name for name, path in paths.items() if path is None]
        if missing and not skip_missing:
            raise LayoutError(missing_message(dataset, self.root, missing, len(paths)))
        return {name: path for name, path in paths.items() if path is not None}


def scan(root: Path) -> VideoFolder:
    """Find all video files and folders of image files below a folder; LayoutError where it is no folder."""
    if not root.is_dir():
        raise LayoutError(f"no folder of videos at {root}")
    found: dict[str, list[Path]] = {}
    frames: dict[str, list[Path]] = {}
    for folder, inner, names in os.walk(root, followlinks=True):
        inner.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if is_video(path):
                found.setdefault(path.stem, []).append(path)
        if is_video(Path(folder)):
            frames.setdefault(Path(folder).name, []).append(Path(folder))
    everything = {stem: (*found.get(stem, ()), *frames.get(stem, ())) for stem in [*found, *frames]}  # files first
    return VideoFolder(root, everything)


def unpack(archive: Path, into: Path) -> None:
    """Unpack the files of a zip or tar archive, each whole or not at all, but for those that are there in full size.

    ArchiveError where it is damaged, no archive, or there is no room for it; and where a member would leave the folder:
    then nothing is written. Links in an archive are left out.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                files = ((member.filename, member.file_size) for member in packed.infolist() if not member.is_dir())
                _extract(archive, into, files, packed.open)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                files = ((member.name, member.size) for member in opened if member.isreg())
                _extract(archive, into, files, lambda name: cast(IO[bytes], opened.extractfile(name)))
        else:
            raise ArchiveError(f"{archive} is neither a zip nor a tar file")
    except ArchiveError:
        raise
    except (*BROKEN, OSError) as error:
        full = getattr(error, "errno", None) in NO_ROOM
        ways = "download it again, or unpack by hand", f"free some space for {into}, or choose another folder"
        raise ArchiveError(f"cannot unpack {archive}: {error}; {ways[full]}") from error


def _extract(archive: Path, into: Path, files: Iterable[tuple[str, int]], read: Callable[[str], IO[bytes]]) -> None:
    most, total = max(LEAST_LIMIT, MOST_GROWTH * archive.stat().st_size), 0
    sizes: dict[str, int] = {}
    for name, size in files:
        if not is_inside(name):
            raise ArchiveError(f"{archive} has the member {name!r}, which lies outside of the folder; nothing unpacked")
        sizes[name], total = size, total + size
        if size < 0 or total > most:  # a negative one would have tarfile go round for ever
            raise ArchiveError(
                f"{archive} unpacks to {total} bytes with {name!r}, where so small a file of videos has at most "
                f"{most}; nothing unpacked; do it by hand if it is right"
            )
    for name, size in sizes.items():
        there = into / name
        if not (there.is_file() and there.stat().st_size == size):
            with read(name) as member:
                write_atomically(there, iter(partial(member.read, PIECE), b""))
