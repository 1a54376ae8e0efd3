"""`lmms-kvtp list`: every component, with its paper, where it works, what it reads and what it promises."""

import argparse
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from lmms_kvtp.method import PARTS, class_of, names_of
from lmms_kvtp.presets import WORDS
from lmms_kvtp.rendering import Written, as_code, markdown, write_between
from lmms_kvtp.settings import meanings

MARKER = "components"
"""Marker in a page: all tables stand between `<!-- components -->` and `<!-- /components -->`."""
HEADER = ["name", "what it does", "paper", "stage", "reads", "query-aware", "training-free", "exact", "more"]
STAGES = {
    "encoder": "once per video",
    "scorer": "once per question",
    "allocator": "once per question",
    "pruner": "before the language model",
}
"""Time at which the components of a part work; layer pruners name their layers."""
INDENT = 6
"""Columns left of a component's text on the terminal."""
MORE = {
    "identity_at_full": "identity at 100 %",
    "conserves_mass": "merges all",
    "temporal": "knows the order of frames",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to list, one component, one part or all, and where to."""
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="only this part")
    parser.add_argument("name", nargs="?", help="one component, or package.module:Class, with all of its settings")
    parser.add_argument("--into", type=Path, help="put all tables into this file, between its components markers")


def main(arguments: argparse.Namespace) -> int:
    """Write lines that fit the terminal, or tables into a page; LookupError has near matches of an unknown name."""
    if arguments.into:
        write_between(arguments.into, components(), MARKER)
        return 0
    width = shutil.get_terminal_size((100, 24)).columns
    if arguments.name:
        sys.stdout.write(f"{details(arguments.part, arguments.name, width)}\n")
        return 0
    for part in [arguments.part] if arguments.part else PARTS:
        sys.stdout.write(f"\n{listing(part, width)}\n")
    sys.stdout.write("\nlmms-kvtp list PART NAME shows the settings of one, such as: lmms-kvtp list pruner tome\n")
    return 0


def listing(part: str, width: int) -> str:
    """Describe each component of a part in a paragraph, in lines of at most `width` characters."""
    lines = [f"{part}=NAME"]
    for name in names_of(part):
        lines.append(f"  {name}")
        try:
            does, *facts = _row(part, name)
            told = "; ".join(f"{key}: {fact}" for key, fact in zip(HEADER[2:], facts, strict=True) if fact != "-")
        except LookupError as error:
            does, told = f"cannot be used: {error}", ""
        for text in (does, told):
            lines += [" " * INDENT + line for line in textwrap.wrap(text, width - INDENT)]
    return "\n".join(lines)


def details(part: str, name: str, width: int) -> str:
    """Write the whole docstring of a component, and its settings with their defaults; raises as `resolve` does."""
    cls, word = class_of(part, name), WORDS.get(part, {}).get(name)
    cells = dict(zip(HEADER[2:], _row(part, name)[1:], strict=True))
    told, meant = meanings(cls), word.settings if word else {}
    lines = [f"{part}={name}", ""]
    lines += [f"{word.does} A word for:", "", f"{part}={word.component}", ""] if word else []
    lines += [inspect.getdoc(cls) or "", "", *(f"{key}: {value}" for key, value in cells.items())]
    lines += [f"{other}: {own}" for other, own in word.brings.items()] if word else []
    for field in fields(cls) if is_dataclass(cls) else ():
        default = repr(meant.get(field.name, field.default))
        default = "(none: it has to be given)" if default == repr(MISSING) else default
        lines += ["", f"{part}.{field.name}={default}"]
        lines += textwrap.wrap(told.get(field.name, ""), width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def components() -> str:
    """Write the tables of all parts in Markdown, as docs/methods.md shows them."""
    return "\n\n".join(f"### {part}\n\n{components_table(part)}" for part in PARTS)


def components_table(part: str) -> str:
    """Write the table of one part's components in Markdown."""
    return markdown(HEADER, [[as_code(name), *map(Written, _row(part, name))] for name in names_of(part)])


def _row(part: str, name: str) -> list[str]:
    cls, word = class_of(part, name), WORDS.get(part, {}).get(name)
    tells = word.tells if word else {}
    layers = ", ".join(str(stage.layer) for stage in cls().stages()) if part not in STAGES else ""
    stage = STAGES.get(part) or (f"before layer {layers}" if layers else "-")
    reads = ", ".join(sorted(getattr(cls, "needs", None) or getattr(cls, "provides", None) or ())) or "-"
    flags = ", ".join(text for name, text in MORE.items() if getattr(cls, name, False)) or "-"
    aware, free = (_yes(tells.get(flag, getattr(cls, flag, None))) for flag in ("query_aware", "training_free"))
    paper = tells.get("paper", getattr(cls, "paper", "")) or "-"
    does = word.does if word else (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    return [does, paper, stage, reads, aware, free, EXACT[part](cls), flags]


def _yes(flag: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[flag]


EXACT: dict[str, Callable[[type[Any]], str]] = {
    "encoder": lambda cls: "-",
    "scorer": lambda cls: "-",
    "allocator": lambda cls: _yes(cls.exact),
    "pruner": lambda cls: ("each frame" if cls.scope == "frame" else "the total") if cls.exact else "no",
    "layer_pruning": lambda cls: "rounded" if cls().stages() else "-",
}
"""Exactness with which the components of a part keep their budgets."""
