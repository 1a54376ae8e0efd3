"""Which commit of this package makes the answers, and whether files of it had changed since."""

import subprocess
from pathlib import Path
from typing import Any

import lmms_kvtp

CODE = ("lmms_kvtp", "tasks", "model_wrappers", "setup.cfg")
"""What answers and scores come from; changes elsewhere in a checkout, in docs or results, count for nothing."""


def tree(folder: Path | None = None) -> dict[str, Any]:
    """Commit and state of a checkout; nothing where the package is installed without one, or git is missing.

    Args:
        folder: of the checkout; that of this package by default.
    """
    folder = folder or Path(lmms_kvtp.__file__).parents[1]
    if not (folder / ".git").exists():
        return {}
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *command: str) -> str:
    run = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=60)
    return run.stdout.strip()
