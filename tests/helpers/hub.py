"""A cache of the hub as huggingface_hub lays it out after a download."""

import hashlib
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_hub(cache: Path, repository: str, files: dict[str, bytes], commit: str = COMMIT, ref: str = "main") -> None:
    """Put a data set's files below `cache`: content in blobs, links in the commit's snapshot, and a ref to it."""
    home = cache / f"datasets--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / ref).write_text(commit)
    for name, content in files.items():
        blob = hashlib.sha256(content).hexdigest()
        (home / "blobs" / blob).write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / blob)
