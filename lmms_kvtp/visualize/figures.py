"""Curves over time, and frames with kept patches lit and merged ones linked, by matplotlib."""

import math
from collections.abc import Sequence
from typing import Any

from lmms_kvtp.rendering import drawing, to_png, to_svg
from lmms_kvtp.visualize.picture import Picture, Reel, lit

COLUMNS = 8
"""Frames in a row of the PNG."""
MOST_LINKS = 400
"""Lines drawn for one method; more hide the frames."""


def curves(found: Sequence[Picture], reel: Reel) -> str:
    """Relevance, budgets and kept tokens of each frame over time, as SVG."""
    with drawing(8.0, 4.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        _curves(upper, lower, found, reel)
        return to_svg(figure)


def sheet(found: Sequence[Picture], reel: Reel, frames: Sequence[int], title: str) -> bytes:
    """One PNG: curves over all frames, then for each method the chosen frames.

    Args:
        found: pictures of all frames.
        reel: all frames.
        frames: which are shown.
        title: the question.
    """
    rows = math.ceil(len(frames) / COLUMNS)
    heights = [2.6, *([1.15 * rows + 0.5] * len(found))]
    with drawing(13.0, sum(heights) + 0.5) as figure:
        figure.suptitle(title, wrap=True, fontsize=11)
        parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
        upper, lower = parts[0].subplots(1, 2)
        _curves(upper, lower, found, reel)
        for part, picture in zip(parts[1:], found, strict=True):
            _strip(part, picture, reel, frames, rows)
        return to_png(figure)


def _curves(upper: Any, lower: Any, found: Sequence[Picture], reel: Reel) -> None:
    times = reel.times.tolist()
    for number, picture in enumerate(found):
        color, width = f"C{number % 10}", max(1.0, 3.0 - 0.6 * number)  # equal curves show below each other
        if len(set(picture.relevance.tolist())) > 1:
            upper.plot(times, picture.relevance.tolist(), color=color, lw=width, label=picture.name)
        lower.step(times, picture.kept.tolist(), where="mid", color=color, lw=width, label=picture.name)
        if not picture.budgets.equal(picture.kept):
            lower.step(times, picture.budgets.tolist(), where="mid", color=color, lw=1, ls=":", alpha=0.8)
    upper.set_ylabel("relevance")
    lower.set_ylabel("tokens kept (dotted: budget)")
    lower.set_xlabel("seconds")
    lower.set_ylim(bottom=0)
    if upper.lines:
        upper.legend(fontsize=8)
    else:
        upper.text(0.5, 0.5, "no method tells frames apart", ha="center", transform=upper.transAxes)
    lower.legend(fontsize=8)


def _strip(part: Any, picture: Picture, reel: Reel, frames: Sequence[int], rows: int) -> None:
    """The frames of one method, with lines from merged patches to where they went."""
    cost = picture.answer.cost
    part.suptitle(
        f"{picture.name}: {cost.tokens_kept} of {cost.tokens_before} vision tokens; answer: {picture.answer.text!r}",
        fontsize=10,
        ha="left",
        x=0.01,
    )
    grid = part.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    shown = dict(zip(frames, grid.flat, strict=False))
    for frame, axes in shown.items():
        axes.imshow(lit(reel.rgb[frame], picture.state[frame], picture.grid).numpy())
        axes.set_title(f"{reel.times[frame]:.0f} s: {int(picture.kept[frame])}", fontsize=7, pad=2)
    _draw_links(part, picture, reel, shown)


def _draw_links(part: Any, picture: Picture, reel: Reel, shown: dict[int, Any]) -> None:
    from matplotlib.patches import ConnectionPatch

    inside = [link for link in picture.links if link.frame in shown and link.to_frame in shown]
    for link in inside[:: max(1, math.ceil(len(inside) / MOST_LINKS))]:
        line = ConnectionPatch(
            center(link.patch, picture.grid, reel),
            center(link.to_patch, picture.grid, reel),
            "data",
            "data",
            axesA=shown[link.frame],
            axesB=shown[link.to_frame],
            color="#ffb000" if link.frame == link.to_frame else "#00c2ff",
            lw=0.6,
            alpha=0.8,
        )
        line.set_in_layout(False)
        part.add_artist(line)


def center(patch: int, grid: tuple[int, int], reel: Reel) -> tuple[float, float]:
    """Where the middle of a patch lies in a small frame, in pixels (x, y)."""
    height, width = reel.rgb.shape[1:3]
    row, column = divmod(patch, grid[1])
    return (column + 0.5) * width / grid[1], (row + 0.5) * height / grid[0]
