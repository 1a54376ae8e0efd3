"""Files: written whole or not at all, the folder for what outlives a run, and short strings that stand for content."""

import codecs
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import orjson
from safetensors import SafetensorError

HOME_VARIABLE = "LMMS_KVTP_HOME"
PART = ".part"
"""Suffix of unfinished files."""
Kind = TypeVar("Kind")
MOST_TOLD = 400
"""Letters of a library's message that are shown."""
PIECE = 1 << 16
"""Bytes read at each place of a file that is fingerprinted: whole videos and weights are too long."""
WEIGHT_SPOTS = 64
"""Number of places read inside a file of weights: training may leave both ends as they were."""


def home() -> Path:
    """Name the folder for what outlives a run: $LMMS_KVTP_HOME, else lmms_kvtp in $XDG_CACHE_HOME, else in ~/.cache.

    OSError where the user has no home.
    """
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmms_kvtp"
    except RuntimeError as error:  # a user without an entry in the system, as in containers
        raise OSError(f"there is no home folder here; set {HOME_VARIABLE} to a writable folder") from error


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Put `content` at `path` by way of a temporary file beside it; a reader sees the old file or the whole new one.

    OSError where the folder is full or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


@contextmanager
def writing(path: Path, way: str = "or choose another folder") -> Iterator[None]:
    """Turn what a full disk, or one that cannot be written, raises into an OSError with file or folder and way out."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = os.strerror(number) if (number := getattr(error, "errno", None)) else error
        raise OSError(number, f"cannot write {path}: {reason}; free some space there, {way}") from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, whole or not at all; what UTF-8 cannot hold of a text becomes `?`. Raises as `writing` does."""
    with writing(path):
        write_atomically(path, content.encode("utf-8", "replace") if isinstance(content, str) else content)


@contextmanager
def loading(
    failed: str, kind: type[Exception] = ValueError, passed: tuple[type[Exception], ...] = (MemoryError,), way: str = ""
) -> Iterator[None]:
    """Turn whatever odd values in files make libraries raise into one `kind`: what `failed`, reason and `way` out."""
    try:
        yield
    except passed:
        raise
    except Exception as error:  # tokenizers has no kind of its own for this, and transformers raises many
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_TOLD]
        raise kind(f"{failed}: {cause}{way}") from error


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; at the end of the block its files, each by a rename, take their places in `folder`.

    After an error, or a kill inside the block, `folder` has its old files. Other files in it stay. Raises as `writing`.
    """
    part = folder / f".new{PART}"
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left
    with writing(folder):
        try:
            part.mkdir(parents=True)
            yield part
            for file in sorted(part.iterdir()):
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def append_line(path: Path, line: str, way: str) -> None:
    """Append a line, which is on disk when this returns; what a killed process left of its last line gets one alone.

    Raises as `writing` does; the file then ends as before.
    """
    end = path.stat().st_size if path.exists() else 0
    with writing(path, way):
        try:
            with path.open("a+b") as file:
                file.seek(max(0, end - 1))
                file.write(b"\n" * (file.read() not in (b"", b"\n")) + line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)  # a torn line, and what is written behind it, would be none
            raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; raises as `write_whole` does."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def from_json(data: bytes | str) -> Any:
    """Read JSON; NaN, which JSON does not have, becomes None, and half a surrogate, which no file can hold, `?`.

    ValueError where it is not JSON, or nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(data, parse_constant=lambda _: None)
            return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error


def read_json(path: Path, kind: type[Kind], refusal: type[ValueError] = ValueError) -> Kind:
    """Read a JSON file that holds a `kind`; `refusal`, which names the file, where it is damaged or holds another."""
    try:
        value = from_json(path.read_bytes())
    except ValueError as error:
        raise refusal(f"{path} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise refusal(f"{path} holds a {type(value).__name__}, wanted a {kind.__name__}")
    return value


def is_inside(name: str) -> bool:
    """Whether a relative path stays below its folder, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not (path.is_absolute() or ".." in path.parts or name[1:2] == ":" or "\0" in name)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a JSON Lines file with their numbers, but for empty ones.

    They end at newlines alone: texts may hold other separators of lines. A byte-order mark is left out.

    ValueError where a line is not UTF-8; the message names file and line; OSError where the file cannot be read.
    """
    for number, raw in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").strip(" \t\r")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number} is not UTF-8 ({error}); convert the file first") from error
        if line:
            yield number, line


def content_key(*parts: Any) -> str:
    """Hash plain values: equal values, equal hash, on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def fingerprint(
    path: Path, spots: int = 1, counts: Callable[[Path], bool] = lambda file: not file.name.startswith(".")
) -> str:
    """Hash a file's size and the bytes at its start, at its end and at `spots` places between.

    For a folder, hash the names and fingerprints of the files below it.

    Args:
        path: of the file or folder.
        spots: number of places between both ends.
        counts: tells which files of a folder count; by default those that are not hidden.

    Raises:
        OSError: a file cannot be read.
    """
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and counts(file))
        return content_key([(file.relative_to(path).as_posix(), fingerprint(file, spots)) for file in inside])
    size = path.stat().st_size
    content = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in (*(size * spot // (spots + 1) for spot in range(spots + 1)), max(0, size - PIECE)):
            file.seek(start)
            content.update(file.read(PIECE))
    return content.hexdigest()
