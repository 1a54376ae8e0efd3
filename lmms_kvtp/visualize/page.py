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
from lmms_kvtp.visualize.picture import MethodPicture, SmallFrames, lit, middle

TEMPLATE = Path(__file__).parent / "page.html"


@dataclass(frozen=True)
class FrameView:
    """One frame under one method, as the template shows it."""

    time: float
    kept: int
    budget: int
    image: str
    """Frame as a JPEG in base64."""
    lines: list[tuple[float, float, float, float]]
    """Merges within the frame, from (x, y) to (x, y), counted in patches."""
    away: list[tuple[float, float, float]]
    """Merges into other frames: (x, y) counted in patches, and the seconds of the other frame."""


def to_html(
    found: Sequence[MethodPicture], small: SmallFrames, frames: Sequence[int], video: str, question: str, toy: bool
) -> str:
    """Render the page.

    Args:
        found: one picture for each method.
        small: all frames.
        frames: numbers of the frames that are shown.
        video: name of the file.
        question: as the model got it.
        toy: the embedded model answered.
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


def _view(picture: MethodPicture, small: SmallFrames, frame: int) -> FrameView:
    columns = picture.grid[1]
    lines, away = [], []
    for link in picture.links:
        if link.frame == frame:
            start = middle(link.patch, columns)
            if link.to_frame == frame:
                lines.append((*start, *middle(link.to_patch, columns)))
            else:
                away.append((*start, float(small.times[link.to_frame])))
    return FrameView(
        time=float(small.times[frame]),
        kept=int(picture.kept[frame]),
        budget=int(picture.budgets[frame]),
        image=jpeg(lit(small.rgb[frame], picture.state[frame], picture.grid)),
        lines=lines,
        away=away,
    )
