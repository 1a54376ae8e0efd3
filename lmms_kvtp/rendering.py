"""Tables in Markdown."""

from collections.abc import Sequence
from pathlib import Path


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table padded so that it also reads well in a terminal; `|` and line breaks in cells are escaped."""
    cells = [[_escape(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def between(file: Path, marker: str) -> tuple[str, str, str]:
    """A page in three parts: up to the line `<!-- marker -->`, up to the line `<!-- /marker -->`, and the rest.

    Raises:
        ValueError: the file lacks one of the lines.
    """
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, start, rest = file.read_text(encoding="utf-8").partition(f"{opening}\n")
    text, end, after = rest.partition(closing)
    if not (start and end):
        raise ValueError(f"{file} has no line {opening} followed by {closing} to put the table between")
    return before + start, text, end + after


def write_between(file: Path, text: str, marker: str) -> None:
    """Replace what stands between the markers of a page; raises as `between` does."""
    before, _, after = between(file, marker)
    file.write_text(f"{before}{text}\n{after}", encoding="utf-8")


def _escape(cell: str) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")
