"""The embedded model: a small trained LLaVA-Video of the original layout, inside the package."""

from pathlib import Path

from lmms_kvtp import shipped
from lmms_kvtp.vlms.checkpoint.config import CheckpointError

NAME = shipped.TINY
MANIFEST = shipped.MANIFEST


def tiny_folder() -> Path:
    """Where the embedded model lies."""
    return shipped.shipped_folder(NAME)


def checked(folder: Path) -> Path:
    """Hold every file that the manifest names against its SHA-256.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    try:
        return shipped.checked(folder, "embedded model", "pretrained")
    except shipped.ShippedError as error:
        raise CheckpointError(str(error)) from error
