"""`lmms-kvtp list`: every component, with its paper and what it reads."""

import argparse
import inspect
import sys
from typing import Any

from lmms_kvtp.method import PARTS
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.table import markdown

FLAGS = {
    "query_aware": "query-aware",
    "exact": "exact budget",
    "identity_at_full": "identity at 100 %",
    "conserves_mass": "merges all",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One part, or all of them."""
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="only this part")


def main(arguments: argparse.Namespace) -> int:
    """Write a Markdown table for each part."""
    for part in [arguments.part] if arguments.part else list(PARTS):
        sys.stdout.write(f"\n## {part}\n\n{components_table(part)}\n")
    return 0


def components_table(part: str) -> str:
    """The table of one part's components in Markdown, as docs/methods.md shows it."""
    package, base = PARTS[part]
    rows = []
    for name in available(package):
        cls = resolve(package, name, base)
        rows.append([f"`{name}`", _summary(cls), getattr(cls, "paper", ""), _reads(cls), _flags(cls)])
    return markdown(["name", "what it does", "paper", "reads", "properties"], rows)


def _summary(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _reads(cls: type[Any]) -> str:
    reads = getattr(cls, "needs", None) or getattr(cls, "provides", None) or ()
    return ", ".join(sorted(reads)) or "-"


def _flags(cls: type[Any]) -> str:
    flags = [text for name, text in FLAGS.items() if getattr(cls, name, False)]
    return ", ".join(flags + (["whole video"] if getattr(cls, "scope", "frame") == "video" else [])) or "-"
