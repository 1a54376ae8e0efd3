"""What methods keep of a video, drawn: curves over time and lit frames, as one PNG and as one HTML page."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from lmms_kvtp.rendering import drawing, page, to_png, to_svg
from lmms_kvtp.visualize.picture import MethodPicture, SmallFrames, lit, middle

COLUMNS = 8
"""Number of frames in a row of the PNG."""
MOST_LINKS = 400
"""Most lines that are drawn for one method; more would hide the frames."""


def curves(found: Sequence[MethodPicture], small: SmallFrames) -> str:
    """Draw relevance, budgets and kept tokens of each frame over time, as SVG."""
    with drawing(8.0, 4.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        _curves(upper, lower, found, small)
        return to_svg(figure)


def sheet(found: Sequence[MethodPicture], small: SmallFrames, frames: Sequence[int], title: str) -> bytes:
    """Draw a PNG: curves of all frames, then for each method the frames of these numbers. The title is the question."""
    rows = math.ceil(len(frames) / COLUMNS)
    heights = [2.6, *([1.15 * rows + 0.5] * len(found))]
    with drawing(13.0, sum(heights) + 0.5) as figure:
        figure.suptitle(title, wrap=True, fontsize=11)
        parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
        upper, lower = parts[0].subplots(1, 2)
        _curves(upper, lower, found, small)
        for part, picture in zip(parts[1:], found, strict=True):
            _strip(part, picture, small, frames, rows)
        return to_png(figure)


def _curves(upper: Any, lower: Any, found: Sequence[MethodPicture], small: SmallFrames) -> None:
    times = small.times.tolist()
    for number, picture in enumerate(found):
        color, width = f"C{number % 10}", max(1.0, 3.0 - 0.6 * number)  # equal curves all show
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


def _strip(part: Any, picture: MethodPicture, small: SmallFrames, frames: Sequence[int], rows: int) -> None:
    """Draw the frames of one method, with lines from merged patches to where they went."""
    cost, text = picture.answer.cost, picture.answer.text
    title = f"{picture.name}: {cost.tokens_kept} of {cost.tokens_before} vision tokens; answer: {text!r}"
    part.suptitle(title, fontsize=10, ha="left", x=0.01)
    grid = part.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    shown = dict(zip(frames, grid.flat, strict=False))
    for frame, axes in shown.items():
        axes.imshow(lit(small.rgb[frame], picture.state[frame], picture.grid).numpy())
        axes.set_title(f"{small.times[frame]:.0f} s: {int(picture.kept[frame])}", fontsize=7, pad=2)
    _draw_links(part, picture, small, shown)


def _draw_links(part: Any, picture: MethodPicture, small: SmallFrames, shown: dict[int, Any]) -> None:
    from matplotlib.patches import ConnectionPatch

    inside = [link for link in picture.links if link.frame in shown and link.to_frame in shown]
    for link in inside[:: max(1, math.ceil(len(inside) / MOST_LINKS))]:
        start, end = (_pixel(patch, picture.grid, small) for patch in (link.patch, link.to_patch))
        axes = {"axesA": shown[link.frame], "axesB": shown[link.to_frame]}
        color = "#ffb000" if link.frame == link.to_frame else "#00c2ff"
        line = ConnectionPatch(start, end, "data", "data", **axes, color=color, lw=0.6, alpha=0.8)
        line.set_in_layout(False)
        part.add_artist(line)


def _pixel(patch: int, grid: tuple[int, int], small: SmallFrames) -> tuple[float, float]:
    """Where the middle of a patch lies in a small frame, in pixels (x, y)."""
    (x, y), (height, width) = middle(patch, grid[1]), small.rgb.shape[1:3]
    return x * width / grid[1], y * height / grid[0]


TEMPLATE = Path(__file__).parent / "page.html"


def to_html(
    found: Sequence[MethodPicture], small: SmallFrames, frames: Sequence[int], video: str, question: str, toy: bool
) -> str:
    """Render the page, with the frames of these numbers.

    `video` is the name of the file, `question` as the model got it, and `toy` says that the embedded model answered.
    """
    return page(
        TEMPLATE,
        pictures=found,
        strips=[(picture, [_view(picture, small, frame) for frame in frames]) for picture in found],
        curves=curves(found, small),  # matplotlib escapes the texts in its SVG
        small=small,
        video=video,
        question=question,
        toy=toy,
    )


def jpeg(rgb: UInt8[Tensor, "H W 3"]) -> str:
    """Encode a frame as a JPEG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(rgb.numpy()).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def _view(picture: MethodPicture, small: SmallFrames, frame: int) -> dict[str, Any]:
    """One frame under one method, as the template shows it; merges are drawn in patches, from (x, y) to (x, y)."""
    columns, lines, away = picture.grid[1], [], []
    for link in picture.links:
        if link.frame == frame:
            start = middle(link.patch, columns)
            if link.to_frame == frame:
                lines.append((*start, *middle(link.to_patch, columns)))
            else:  # with the seconds of the other frame
                away.append((*start, float(small.times[link.to_frame])))
    return {
        "time": float(small.times[frame]),
        "kept": int(picture.kept[frame]),
        "budget": int(picture.budgets[frame]),
        "image": jpeg(lit(small.rgb[frame], picture.state[frame], picture.grid)),
        "lines": lines,
        "away": away,
    }
