"""What several methods keep of a video, as one HTML page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from lmms_kvtp.rendering import page
from lmms_kvtp.visualize.figures import curves
from lmms_kvtp.visualize.picture import Picture, Reel, lit

TEMPLATE = Path(__file__).parent / "page.html"


@dataclass(frozen=True)
class FrameView:
    """One frame under one method, as the template shows it."""

    time: float
    kept: int
    budget: int
    image: str
    """JPEG in base64."""
    lines: list[tuple[float, float, float, float]]
    """Merges within the frame, from (x, y) to (x, y), in patches."""
    away: list[tuple[float, float, float]]
    """Merges into another frame: (x, y) in patches, and the seconds of that frame."""


def to_html(found: Sequence[Picture], reel: Reel, frames: Sequence[int], video: str, question: str, toy: bool) -> str:
    """The whole page.

    Args:
        found: one for each method.
        reel: all frames.
        frames: which are shown.
        video: its name.
        question: as the model got it.
        toy: the embedded model answered.
    """
    return page(
        TEMPLATE,
        pictures=found,
        strips=[(picture, [_view(picture, reel, frame) for frame in frames]) for picture in found],
        curves=curves(found, reel),  # matplotlib escapes the texts in its SVG
        reel=reel,
        video=video,
        question=question,
        toy=toy,
    )


def jpeg(rgb: UInt8[Tensor, "H W 3"]) -> str:
    """A small JPEG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(rgb.numpy()).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def _view(picture: Picture, reel: Reel, frame: int) -> FrameView:
    columns = picture.grid[1]
    lines, away = [], []
    for link in picture.links:
        if link.frame == frame:
            start = _middle(link.patch, columns)
            if link.to_frame == frame:
                lines.append((*start, *_middle(link.to_patch, columns)))
            else:
                away.append((*start, float(reel.times[link.to_frame])))
    return FrameView(
        time=float(reel.times[frame]),
        kept=int(picture.kept[frame]),
        budget=int(picture.budgets[frame]),
        image=jpeg(lit(reel.rgb[frame], picture.state[frame], picture.grid)),
        lines=lines,
        away=away,
    )


def _middle(patch: int, columns: int) -> tuple[float, float]:
    row, column = divmod(patch, columns)
    return column + 0.5, row + 0.5
