"""`lmms-kvtp list`: every component, with its paper, where it works, what it reads and what it promises."""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmms_kvtp.method import PARTS
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.table import markdown, write_between

MARKER = "components"
"""Between `<!-- components -->` and `<!-- /components -->` a page holds all tables."""

HEADER = ["name", "what it does", "paper", "stage", "reads", "query-aware", "training-free", "exact", "more"]

STAGES = {
    "encoder": "once per video",
    "scorer": "once per question",
    "allocator": "once per question",
    "pruner": "before the language model",
}
"""When the components of a part work; layer pruners name their layers."""

MORE = {
    "identity_at_full": "identity at 100 %",
    "conserves_mass": "merges all",
    "temporal": "knows the order of frames",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One part, or all of them; on the terminal, or into a page."""
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="only this part")
    parser.add_argument("--into", type=Path, help="put all tables into this file, between its components markers")


def main(arguments: argparse.Namespace) -> int:
    """Write a Markdown table for each part."""
    if arguments.into:
        write_between(arguments.into, components(), MARKER)
        return 0
    sys.stdout.write(f"\n{components([arguments.part] if arguments.part else None)}\n")
    return 0


def components(parts: list[str] | None = None) -> str:
    """The tables of some parts, or of all, in Markdown, as docs/methods.md shows them."""
    return "\n\n".join(f"### {part}\n\n{components_table(part)}" for part in parts or PARTS)


def components_table(part: str) -> str:
    """The table of one part's components in Markdown."""
    package, base = PARTS[part]
    classes = {name: resolve(package, name, base) for name in available(package)}
    return markdown(HEADER, [[f"`{name}`", *_row(part, cls)] for name, cls in classes.items()])


def _row(part: str, cls: type[Any]) -> list[str]:
    stage = STAGES.get(part) or _layers(cls)
    reads = ", ".join(sorted(getattr(cls, "needs", None) or getattr(cls, "provides", None) or ())) or "-"
    flags = ", ".join(text for name, text in MORE.items() if getattr(cls, name, False)) or "-"
    aware, free = (_yes(getattr(cls, name, None)) for name in ("query_aware", "training_free"))
    return [_summary(cls), getattr(cls, "paper", "") or "-", stage, reads, aware, free, EXACT[part](cls), flags]


def _summary(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _layers(cls: type[Any]) -> str:
    layers = [str(stage.layer) for stage in cls().stages()]
    return f"before layer {', '.join(layers)}" if layers else "-"


def _yes(flag: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[flag]


EXACT: dict[str, Callable[[type[Any]], str]] = {
    "encoder": lambda cls: "-",
    "scorer": lambda cls: "-",
    "allocator": lambda cls: _yes(cls.exact),
    "pruner": lambda cls: "each frame" if cls.scope == "frame" else "the total",
    "layer_pruning": lambda cls: "rounded" if cls().stages() else "-",
}
"""How exactly the components of a part keep what they were given."""
