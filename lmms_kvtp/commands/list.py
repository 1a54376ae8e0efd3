"""`lmms-kvtp list`: every component, with its paper, where it works, what it reads and what it promises."""

import argparse
import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import lmms_kvtp
from lmms_kvtp.files import content_key
from lmms_kvtp.presets import PACKAGES, WORDS, names_of
from lmms_kvtp.rendering import Written, as_code, markdown, write_between
from lmms_kvtp.settings import meanings

TABLE = Path(__file__).with_suffix(".json")
"""What `read_facts` finds in each component of this package, written with --into, so that nothing is imported."""
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
    parser.add_argument("part", nargs="?", choices=list(PACKAGES), help="only this part")
    parser.add_argument("name", nargs="?", help="one component, or package.module:Class, with all of its settings")
    parser.add_argument("--into", type=Path, help="put all tables into this file, between its components markers")


def main(arguments: argparse.Namespace) -> int:
    """Write lines that fit the terminal, or tables into a page; LookupError has near matches of an unknown name."""
    if arguments.into:
        write_between(arguments.into, components(), MARKER)
        known = {part: {name: read_facts(part, name) for name in names_of(part)} for part in PACKAGES}
        if known != facts_table():
            TABLE.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0
    width = shutil.get_terminal_size((100, 24)).columns
    if arguments.name:
        sys.stdout.write(f"{details(arguments.part, arguments.name, width)}\n")
        return 0
    for part in [arguments.part] if arguments.part else PACKAGES:
        sys.stdout.write(f"\n{listing(part, width)}\n")
    sys.stdout.write("\nlmms-kvtp list PART NAME shows the settings of one, such as: lmms-kvtp list pruner tome\n")
    return 0


def listing(part: str, width: int) -> str:
    """Describe each component of a part in a paragraph, in lines of at most `width` characters."""
    lines = [f"{part}=NAME"]
    for name in names_of(part):
        lines.append(f"  {name}")
        try:
            does, *facts = find_facts(part, name)["row"]
            told = "; ".join(f"{key}: {fact}" for key, fact in zip(HEADER[2:], facts, strict=True) if fact != "-")
        except Exception as error:  # foreign code: anything may come of it
            does, told = f"cannot be used: {error}", ""
        for text in (does, told):
            lines += [" " * INDENT + line for line in textwrap.wrap(text, width - INDENT)]
    return "\n".join(lines)


def details(part: str, name: str, width: int) -> str:
    """Write the whole docstring of a component, and its settings with their defaults; raises as `resolve` does."""
    facts, word = find_facts(part, name), WORDS.get(part, {}).get(name)
    lines = [f"{part}={name}", ""]
    lines += [f"{word.does} A word for:", "", f"{part}={word.component}", ""] if word else []
    lines += [facts["doc"], "", *(f"{key}: {cell}" for key, cell in zip(HEADER[2:], facts["row"][1:], strict=True))]
    lines += [f"{other}: {own}" for other, own in word.brings.items()] if word else []
    for field, default, told in facts["settings"]:
        lines += ["", f"{part}.{field}={default}"]
        lines += textwrap.wrap(told, width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def components() -> str:
    """Write the tables of all parts in Markdown, as docs/methods.md shows them."""
    return "\n\n".join(f"### {part}\n\n{components_table(part)}" for part in PACKAGES)


def components_table(part: str) -> str:
    """Write the table of one part's components in Markdown."""
    return markdown(HEADER, [[as_code(name), *map(Written, find_facts(part, name)["row"])] for name in names_of(part)])


def find_facts(part: str, name: str) -> dict[str, Any]:
    """Look a component of this package up in TABLE if its file is as it was then; read any other from its class."""
    found = facts_table().get(part, {}).get(name)
    foreign = found and entry_points(group=PACKAGES[part], name=name)
    return found if found and not foreign and found["source"] == _source(part, name) else read_facts(part, name)


def read_facts(part: str, name: str) -> dict[str, Any]:
    """Read what is told of a component from its class: cells, docstring, settings; raises as `resolve` does."""
    from lmms_kvtp.method import class_of

    cls, word = class_of(part, name), WORDS.get(part, {}).get(name)
    tells, meant, told = (word.tells, word.settings, meanings(cls)) if word else ({}, {}, meanings(cls))
    layers = ", ".join(str(stage.layer) for stage in cls().stages()) if part not in STAGES else ""
    stage = STAGES.get(part) or (f"before layer {layers}" if layers else "-")
    reads = ", ".join(sorted(getattr(cls, "needs", None) or getattr(cls, "provides", None) or ())) or "-"
    flags = ", ".join(text for name, text in MORE.items() if getattr(cls, name, False)) or "-"
    aware, free = (_yes(tells.get(flag, getattr(cls, flag, None))) for flag in ("query_aware", "training_free"))
    paper, doc = tells.get("paper", getattr(cls, "paper", "")) or "-", inspect.getdoc(cls) or ""
    does = word.does if word else doc.split("\n\n")[0].replace("\n", " ")
    shown = {f.name: meant.get(f.name, f.default) for f in (fields(cls) if is_dataclass(cls) else ())}
    given = {key: "(none: it has to be given)" if value is MISSING else repr(value) for key, value in shown.items()}
    return {
        "source": _source(part, name),
        "row": [does, paper, stage, reads, aware, free, EXACT[part](cls), flags],
        "doc": doc,
        "settings": [[key, default, told.get(key, "")] for key, default in given.items()],
    }


@cache
def facts_table() -> dict[str, Any]:
    """Read TABLE; empty where there is none."""
    return dict(json.loads(TABLE.read_text(encoding="utf-8"))) if TABLE.is_file() else {}


def _source(part: str, name: str) -> str:
    """Hash the file of a component of this package, and the word that stands for it."""
    word = WORDS.get(part, {}).get(name)
    file = Path(lmms_kvtp.__file__).parent / PACKAGES[part].partition(".")[2] / f"{word.component if word else name}.py"
    return content_key(file.read_text(encoding="utf-8"), repr(word)) if file.is_file() else ""


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
