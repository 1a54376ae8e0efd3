"""Stages that are done once: their results stay on disk until the run is complete, and beyond."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmms_kvtp import __version__
from lmms_kvtp.tiny.progress import Log


class Stages:
    """The finished stages of one run, in a folder."""

    def __init__(self, folder: Path, stamp: dict[str, Any], log: Log) -> None:
        """Claim `folder` for the run that `stamp` describes.

        Raises:
            ValueError: it holds another run.
        """
        self.folder, self.stamp, self.log = folder, stamp, log
        note = folder / "run.json"
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists() and (held := json.loads(note.read_text(encoding="utf-8"))) != stamp:
            differing = [key for key in stamp if held.get(key) != stamp[key]]
            raise ValueError(
                f"{folder} holds stages of a run with another {' and '.join(differing)}; "
                "give another --out, or delete that folder"
            )
        note.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")

    def run(self, name: str, model: nn.Module, lesson: Callable[[], None]) -> None:
        """Bring `model` to the end of a stage: from disk, or by `lesson`, whose result is then kept."""
        path = self.folder / f"{name}.pt"
        if path.exists():
            kept = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(kept["model"])
            self.log.lines += kept["log"]
            return
        begun = len(self.log.lines)
        lesson()
        part = path.with_suffix(".part")
        torch.save({"model": model.state_dict(), "log": self.log.lines[begun:]}, part)
        os.replace(part, path)


def fingerprint(model: nn.Module) -> str:
    """A short hash of all weights."""
    digest = hashlib.sha256()
    for name, part in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(part.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def code_version() -> str:
    """The git commit of a source checkout, else the version of the package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return __version__
    described = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{__version__} at {described.stdout.strip()}" if described.returncode == 0 else __version__
