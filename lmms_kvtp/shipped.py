"""Trained weights inside the package, each folder held against the SHA-256 of its files."""

import hashlib
import json
from pathlib import Path

import lmms_kvtp
from lmms_kvtp.files import write_json

TINY = "tiny"
"""Name of the shipped checkpoint in settings; a folder of that name is given as `./tiny`."""
TOY = "TOY: the embedded model made these answers; they show how methods work and fail, and reproduce no paper's number"
MANIFEST = "sha256.json"
"""File in a shipped folder with the digest of every other file."""


class ShippedError(ValueError):
    """Shipped weights are missing, damaged or edited; the message says what to do."""


def shipped_folder(name: str) -> Path:
    """Find the package's folder with the weights of that name."""
    return Path(lmms_kvtp.__file__).parent / "assets" / name


def tiny_folder() -> Path:
    """Find the folder of the embedded model."""
    return shipped_folder(TINY)


def checked(folder: Path, what: str, setting: str) -> Path:
    """Hold every file that the manifest names against its SHA-256.

    Args:
        folder: the folder with the weights.
        what: the name of the weights in messages.
        setting: the setting that takes a folder in their place, for messages.

    Raises:
        ShippedError: a file is missing or differs.
    """
    if not (folder / MANIFEST).is_file():
        raise ShippedError(
            f"this installation has no {what}: {folder / MANIFEST} is missing; "
            f"reinstall lmms-kvtp, or give a checkpoint with {setting}=FOLDER"
        )
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    missing = [name for name in manifest if not (folder / name).is_file()]
    if missing:
        raise ShippedError(f"the {what} lacks {', '.join(missing)} in {folder}; reinstall lmms-kvtp")
    changed = [name for name, digest in manifest.items() if _sha256(folder / name) != digest]
    if changed:
        raise ShippedError(f"{', '.join(changed)} in {folder} is damaged or edited; reinstall lmms-kvtp")
    return folder


def write_manifest(folder: Path, leave_out: str = "") -> None:
    """Note the digest of every file in `folder`, but for those in its folder `leave_out`."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shipped = {name: path for name, path in files.items() if name.parts[0] not in (leave_out, MANIFEST)}
    digests = {name.as_posix(): _sha256(path) for name, path in shipped.items()}
    write_json(folder / MANIFEST, digests)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
