"""The values that flow from a video and a question to an answer; see docs/design.md for the picture.

Axes in annotations: T frames, N = h*w patches per frame on the language model's pooled grid, K kept tokens,
D language-model width, E image-text embedding width, L prompt positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lmms_kvtp.video.pixels import PixelSpec, Shrink, resize


@dataclass(frozen=True)
class Frames:
    """Some frames of a video, in its order."""

    _rgb: UInt8[Tensor, "T H W 3"] | Callable[[], UInt8[Tensor, "T H W 3"]] = field(repr=False)
    """Decoded, or what decodes them if somebody asks."""
    times: Float[Tensor, " T"]
    """Seconds from the start of the video."""
    tower: Float[Tensor, "T P C"] | None = None
    """Patches as the language model's own vision tower sees them, row by row, once that has run."""
    spent: dict[str, float] = field(default_factory=dict, compare=False)
    """Seconds of stages that ran in another process, and of the wait for it; empty where frames are decoded here."""
    shrink: Shrink = field(default=resize, repr=False, compare=False)
    _resized: dict[PixelSpec, Tensor] = field(default_factory=dict, repr=False, compare=False)
    _prepared: dict[PixelSpec, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rgb(self) -> UInt8[Tensor, "T H W 3"]:
        """The frames as they are in the video. They may be decoded only now: take pixels where these will do.

        Raises:
            VideoError: they cannot be read.
        """
        return self._rgb if isinstance(self._rgb, Tensor) else self._rgb()

    def resized(self, spec: PixelSpec) -> UInt8[Tensor, "T h w 3"]:
        """Frames at the size that `spec` wants; raises as `rgb`."""
        if spec not in self._resized:
            self._resized[spec] = self.shrink(spec, lambda: self.rgb)
        return self._resized[spec]

    def pixels(self, spec: PixelSpec, device: torch.device | None = None) -> Float[Tensor, "T 3 h w"]:
        """Frames as `spec` wants them; two towers with equal specs share one preprocessing. Raises as `rgb`.

        Args:
            spec: what a tower wants.
            device: where it reads, unless another tower made them before on its own; bytes go there, a quarter of what
                pixels are, and become pixels there. None: the CPU.
        """
        if spec not in self._prepared:
            resized = self.resized(spec)
            self._prepared[spec] = spec.normalise(resized if device is None else resized.to(device))
        return self._prepared[spec]

    @property
    def prepared(self) -> frozenset[PixelSpec]:
        """What was resized so far, and for whom."""
        return frozenset(self._resized)


@dataclass(frozen=True)
class Picture:
    """An image that is asked about as such, and not as a frame of a video."""

    key: str
    """Names it."""
    rgb: UInt8[Tensor, "H W 3"]
    alone: bool
    """The only image of its question: a model may look at it more closely."""


@runtime_checkable
class Video(Protocol):
    """Which frames of a video the model sees, and the means to read them."""

    @property
    def source(self) -> str:
        """Path, or a name for frames that came from memory."""
        ...

    @property
    def key(self) -> str:
        """Stable across machines: seeds the random pruners."""
        ...

    @property
    def indices(self) -> Int[Tensor, " T"]:
        """Of the frames, in the video."""
        ...

    @property
    def times(self) -> Float[Tensor, " T"]:
        """Seconds of the frames."""
        ...

    @property
    def duration(self) -> float:
        """Seconds."""
        ...

    @property
    def instruction(self) -> str:
        """Text about sampling that the model wants before the question; empty when not asked for."""
        ...

    def chunks(self) -> Iterator[Frames]:
        """Decode the frames, a bounded number at a time.

        Raises:
            VideoError: the file cannot be read; the message has path and cause.
        """
        ...


class VideoError(ValueError):
    """A video cannot be read; the message names the path and the cause."""
