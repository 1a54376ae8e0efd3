"""The embedded model: a small trained LLaVA-Video of the original layout, inside the package."""

import hashlib
from pathlib import Path

import lmms_kvtp
from lmms_kvtp.vlms.config import CheckpointError, read_json

NAME = "tiny"
"""`pretrained=tiny`; a folder of that name is given as `./tiny`."""
MANIFEST = "sha256.json"


def tiny_folder() -> Path:
    """Where the embedded model lies."""
    return Path(lmms_kvtp.__file__).parent / "assets" / NAME


def checked(folder: Path) -> Path:
    """Hold every file that the manifest names against its SHA-256.

    Raises:
        CheckpointError: a file is missing or differs.
    """
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"this installation has no embedded model: {folder / MANIFEST} is missing; "
            "reinstall lmms-kvtp, or give a checkpoint with pretrained=FOLDER"
        )
    manifest = read_json(folder / MANIFEST)
    missing = [name for name in manifest if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"the embedded model lacks {', '.join(missing)} in {folder}; reinstall lmms-kvtp")
    changed = [name for name, digest in manifest.items() if _sha256(folder / name) != digest]
    if changed:
        raise CheckpointError(f"{', '.join(changed)} in {folder} is damaged or edited; reinstall lmms-kvtp")
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
