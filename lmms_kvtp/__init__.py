"""KVTP and other video-token pruners as an lmms-eval plug-in; importing this loads nothing heavy."""

from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "tasks").is_dir() and (_root / "setup.cfg").is_file():
    # In a source checkout tasks/ and model_wrappers/ lie beside this folder; setup.cfg maps them below it.
    __path__.append(str(_root))


def __getattr__(name: str) -> Any:
    """`lmms_kvtp.load`, imported when it is asked for."""
    if name == "load":
        from lmms_kvtp.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
