"""How frames become what a vision tower reads."""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor


@runtime_checkable
class PixelSpec(Protocol):
    """What a vision tower wants of a frame: a hashable recipe from uint8 frames to normalised pixels, in two steps.

    Its `repr` names everything that `resize` depends on.
    """

    def resize(self, rgb: UInt8[Tensor, "T H W 3"], fast: bool = False) -> UInt8[Tensor, "T h w 3"]:
        """Resize frames; `fast` allows small differences, where that is faster."""
        ...

    def normalise(self, resized: UInt8[Tensor, "T h w 3"]) -> Float[Tensor, "T 3 h w"]:
        """The pixels of resized frames."""
        ...


Shrink: TypeAlias = Callable[[PixelSpec, Callable[[], Tensor]], Tensor]
"""How frames are resized for a tower, [T, h, w, 3], or taken from where that was kept: what the tower wants, and what
gives the frames as they are, [T, H, W, 3], and may have to decode them."""


def resize(spec: PixelSpec, rgb: Callable[[], UInt8[Tensor, "T H W 3"]]) -> UInt8[Tensor, "T h w 3"]:
    """A `Shrink` that keeps nothing, and is exact."""
    return spec.resize(rgb())
