"""Files that are written whole or not at all."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` by way of a temporary file beside it; a reader sees the old file or the whole new one.

    Raises:
        OSError: the folder is full or cannot be written; the message names the file and the way out.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _explained(error, path) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _explained(error: OSError, path: Path) -> OSError:
    reason = error.strerror or str(error)
    return OSError(error.errno, f"cannot write {path}: {reason}; free some space there or choose another --out")
