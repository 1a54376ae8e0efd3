"""How results are shown: lists and tables as text, HTML pages, and figures.

What models and files say is data. Each output has one function here that makes a text stand for itself: `visible` for
terminals, `as_markdown`, `as_csv`, `as_latex`, and `page` for HTML.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lmms_kvtp.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that command a terminal, turn the direction of writing, or are none."""
MARKUP = re.compile(r"[\\`*~|<>]|\](?=[(\[:])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|^(?=(?:#+|[+-])\s)")
WORDS = "backslash", "asciitilde", "asciicircum", "less", "greater", "bar", "asciigrave"
LATEX = {sign: rf"\text{word}{{}}" for sign, word in zip("\\~^<>|`", WORDS, strict=True)}
LATEX |= {"±": r"$\pm$", "\n": " ", "[": "{[}", "*": "{*}"}
"""Characters that LaTeX reads as markup, some only where a line of a table begins -> what prints them."""


class Written(str):
    """A cell that is Markdown already, such as a text of this package."""


def visible(text: str) -> str:
    """Write control characters as Python writes them in strings, all but tabs and line breaks."""
    return UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class Terminal(io.TextIOBase):
    """A stream that shows what is written to another as `visible` has it."""

    def __init__(self, stream: Any) -> None:
        """Write to `stream`."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        return int(self._stream.write(visible(text)))


def as_markdown(text: str) -> str:
    """Write one line of Markdown that shows the text: no tag, link, image or code in it works, and nobody is called."""
    line = visible(" ".join(text.split()))
    if isinstance(text, Written):
        return line.replace("|", "\\|")
    return MARKUP.sub(r"\\\g<0>", line).replace("@", "@\u200b").replace("://", ":\u200b//")


def as_code(text: str) -> Written:
    """Write Markdown that shows the text as code, however many backticks it has."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return Written(f"{fence}{space}{text}{space}{fence}")


def as_csv(text: str) -> str:
    """Quote a cell that a spreadsheet would run, whatever stands before its first sign."""
    return f"'{text}" if re.match(r"[\s\x00-\x20\ufeff]*[=+\-@＝＋－＠]", text) else text  # noqa: RUF001


def as_latex(text: str) -> str:
    """Make every character stand for itself."""
    return "".join(LATEX.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in visible(text))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table, padded so that it also reads well in a terminal; cells are texts, or `Written`."""
    cells = [[as_markdown(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def first_few(items: Sequence[str], limit: int, separator: str = ", ") -> str:
    """Join the first `limit` items, and say how many more there are: `a, b and 3 more`."""
    more = len(items) - limit
    return separator.join(items[:limit]) + (f"{separator.replace(',', '')}and {more} more" if more > 0 else "")


def between(file: Path, marker: str) -> tuple[str, str, str]:
    """Split a page into three parts: up to the line `<!-- marker -->`, up to the line `<!-- /marker -->`, and the rest.

    ValueError where the file lacks one of the lines.
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
    write_whole(file, f"{before}{text}\n{after}")


def page(template: Path, **values: Any) -> str:
    """A whole HTML page that needs no network; every text in it is escaped.

    Args:
        template: a Jinja file that extends `rendering.html`, the head that all pages share.
        values: what the template shows.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    pages = Environment(autoescape=True, undefined=StrictUndefined, loader=loader)
    return pages.get_template(template.name).render(**values)


STYLE: dict[str, Any] = {
    "svg.hashsalt": "lmms-kvtp",  # equal figures, equal files
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


@contextmanager
def drawing(width: float, height: float) -> "Iterator[Figure]":
    """Make a figure of so many inches, in our style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(cast(Any, STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # an empty box; pages show the text itself
        yield Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: "Figure") -> str:
    """Write SVG without the XML head, to stand inside a page; texts in it are escaped."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    figure.set_layout_engine("none")  # all stands where it belongs: another format need not look again
    return "<svg" + buffer.getvalue().partition("<svg")[2]


def to_pdf(figure: "Figure") -> bytes:
    """Write a figure as PDF, equal figures as equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: "Figure", dpi: int = 110) -> bytes:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
