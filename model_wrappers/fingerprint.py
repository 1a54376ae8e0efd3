"""What an answer depends on, as short hashes: weights, videos, and the source of the code that runs."""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

EDGE = 1 << 16
"""Bytes read at either end of a large file."""


def digest(value: object) -> str:
    """Hash plain values: equal values, equal hash, on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def of_path(path: Path) -> str:
    """Fingerprint a file or a folder by names, sizes and content; of large files, the content of both ends."""
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        return digest([(str(file.relative_to(path)), of_path(file)) for file in inside])
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(EDGE)
        if size > EDGE:
            file.seek(max(EDGE, size - EDGE))
            content += file.read(EDGE)
    return f"{size}-{hashlib.sha256(content).hexdigest()[:32]}"


def of_settings(settings: Any) -> dict[str, str]:
    """Fingerprint every file or folder that plain values, nested or not, name as an existing path."""
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        return {path: mark for value in settings for path, mark in of_settings(value).items()}
    if isinstance(settings, str) and "/" in settings and Path(settings).exists():
        return {settings: of_path(Path(settings))}
    return {}


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
