"""What an answer depends on, as short hashes: weights, videos, and the source of the code that runs."""

import ast
import hashlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

import lmms_kvtp
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.parts.predictor import shipped_predictors
from lmms_kvtp.files import WEIGHT_SPOTS, fingerprint
from lmms_kvtp.shipped import TINY, shipped_folder

ENCODER_WEIGHTS = "model.safetensors"
FOLDERS = ("pretrained", "checkpoint")
"""Settings that name files or folders; the value of another is taken for a path where a slash is in it."""


def of_weights(path: Path) -> str:
    """Fingerprint a checkpoint; one that was trained further in its place has another."""
    return fingerprint(path, WEIGHT_SPOTS)


def of_encoder(encoder: FrameEncoder) -> str:
    """Fingerprint the file of an encoder's weights, whatever folder or hub id it lies under; empty where none is found.

    Weights in several files, and those of open_clip, have none: their name is all that is known.
    """
    try:
        found = encoder.companion(ENCODER_WEIGHTS)
    except OSError:  # a hub id that is not to be had
        return ""
    return "" if found is None else of_weights(found)


def of_settings(settings: Any, names_folder: bool = False) -> dict[str, str]:
    """Fingerprint every file or folder that plain values, nested or not, name as an existing path.

    Args:
        settings: the values.
        names_folder: whether they stand under one of FOLDERS, where `tiny` is the shipped one.
    """
    if isinstance(settings, Mapping):
        found = [of_settings(value, name in FOLDERS) for name, value in settings.items()]
        return {path: mark for part in found for path, mark in part.items()}
    if isinstance(settings, list | tuple):
        return {path: mark for value in settings for path, mark in of_settings(value, names_folder).items()}
    if not isinstance(settings, str) or not (names_folder or "/" in settings):
        return {}
    if names_folder and settings in (TINY, *shipped_predictors()):  # the key of a model of that name is another
        return {f"shipped {settings}": of_weights(shipped_folder(""))}
    return {settings: of_weights(Path(settings))} if settings and Path(settings).exists() else {}


def of_source(modules: Iterable[str]) -> dict[str, str]:
    """Hash the source of modules and of all that they import, anywhere in their code, from their own packages.

    Args:
        modules: names of imported modules; the package of `a.b.c` is `a`.

    Returns:
        A hash by module name.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in found or file is None:
            continue
        source = file.read_text(encoding="utf-8")
        found[name] = hashlib.sha256(source.encode()).hexdigest()[:16]
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [used for used in _imports(source, package) if used.split(".")[0] == name.split(".")[0]]
    return dict(sorted(found.items()))


def _file(name: str) -> Path | None:
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if origin is None:
        try:
            spec = find_spec(name)
        except (ModuleNotFoundError, ValueError):  # a function's name, as in `from module import function`
            return None
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


def _imports(source: str, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


CODE = ("lmms_kvtp", "tasks", "model_wrappers", "setup.cfg")
"""Parts of a checkout that answers and scores come from; changes elsewhere, in docs or results, do not count."""


def tree(folder: Path | None = None) -> dict[str, Any]:
    """Name commit and state of a checkout; nothing where the package is installed without one, or git is missing.

    Args:
        folder: the checkout; this package's own by default.
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
