"""Matplotlib figures that look alike, need no display and are the same file each time."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    """A figure of so many inches, in our style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(cast(Any, STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # an empty box; pages show the text itself
        yield Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: "Figure") -> str:
    """SVG without the XML head, to stand inside a page; texts in it are escaped."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return "<svg" + buffer.getvalue().partition("<svg")[2]


def to_png(figure: "Figure", dpi: int = 110) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
