"""Frames of a video, as they go from whoever decodes them to the towers that read them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lmms_kvtp.types import Timing, step_means
from lmms_kvtp.video.pixels import PixelSpec, Shrink, resize


class VideoError(ValueError):
    """A video cannot be read; the message names the path and the cause, and commands no terminal."""

    def __str__(self) -> str:
        """Give the message."""
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())


class StaleIndexError(VideoError):
    """A video showed other frames than its packets announce; these are listed now: it can be read from its start."""


@dataclass(frozen=True)
class TowerInside:
    """Queries and keys of the last layer that the language model's own tower runs, of some frames in a row."""

    queries: Float[Tensor, "T P C"]
    keys: Float[Tensor, "T P C"]
    heads: int


class Frames:
    """Some frames of a video, in its order. Each tower's pixels are made once, when they are first asked for."""

    def __init__(
        self,
        rgb: UInt8[Tensor, "T H W 3"] | Callable[[], UInt8[Tensor, "T H W 3"]],
        times: Float[Tensor, " T"],
        tower: Float[Tensor, "S P C"] | None = None,
        spent: Mapping[str, float] | None = None,
        shrink: Shrink = resize,
        patched: int = 0,
    ) -> None:
        """Hold decoded frames, or what decodes them if somebody asks.

        Args:
            rgb: the frames, or a function that decodes them.
            times: seconds from the start of the video.
            tower: patches as the language model's own vision tower sees them, row by row, once that has run: of the S
                steps that it makes of the frames.
            spent: seconds of stages that ran in another process, and of the wait for it; none for frames decoded here.
            shrink: how frames are resized for a tower.
            patched: how many of them are damaged in the file, and shown as a codec patches them.
        """
        self.times, self.tower, self.spent, self.patched = times, tower, dict(spent or {}), patched
        self.inside: Sequence[TowerInside] = ()
        self._rgb, self._shrink = rgb, shrink
        self._resized: dict[PixelSpec, Tensor] = {}
        self._pixels: dict[PixelSpec, Tensor] = {}

    @classmethod
    def of_resized(
        cls,
        resized: Mapping[PixelSpec, UInt8[Tensor, "T h w 3"]],
        rgb: UInt8[Tensor, "T H W 3"] | Callable[[], UInt8[Tensor, "T H W 3"]],
        times: Float[Tensor, " T"],
        spent: Mapping[str, float],
        shrink: Shrink,
        patched: int = 0,
    ) -> "Frames":
        """Hold frames that were resized for some towers already."""
        frames = cls(rgb, times, spent=spent, shrink=shrink, patched=patched)
        frames._resized.update(resized)
        return frames

    @classmethod
    def of_pixels(cls, pixels: Mapping[PixelSpec, Float[Tensor, "T 3 h w"]], times: Float[Tensor, " T"]) -> "Frames":
        """Hold the pixels that towers read, of frames that have no colors of their own."""
        frames = cls(torch.zeros(len(times), 1, 1, 3, dtype=torch.uint8), times)
        frames._pixels.update(pixels)
        return frames

    def seen(self, tower: Float[Tensor, "S P C"], inside: Sequence[TowerInside] = ()) -> "Frames":
        """The frames with what the language model's own vision tower saw of them, and maybe with what it computed."""
        frames = Frames(self._rgb, self.times, tower, self.spent, self._shrink, self.patched)
        frames.inside = inside
        frames._resized, frames._pixels = self._resized, self._pixels  # what one makes, the other has
        return frames

    @property
    def tower_times(self) -> Float[Tensor, " S"]:
        """Seconds of what `tower` and `inside` hold: of each frame, or the middle of each step."""
        return self.times if self.tower is None else step_means(self.times, len(self.tower))

    @property
    def rgb(self) -> UInt8[Tensor, "T H W 3"]:
        """The frames as they are in the video. They may be decoded only now: take `pixels` where these will do.

        VideoError where they cannot be read.
        """
        return self._rgb if isinstance(self._rgb, Tensor) else self._rgb()

    def resized(self, spec: PixelSpec) -> UInt8[Tensor, "T h w 3"]:
        """Frames at the size that `spec` wants; raises as `rgb`."""
        if spec not in self._resized:
            self._resized[spec] = self._shrink(spec, lambda: self.rgb)
        return self._resized[spec]

    def pixels(self, spec: PixelSpec, device: torch.device | None = None) -> Float[Tensor, "T 3 h w"]:
        """Frames as `spec` wants them; two towers with equal specs share one preprocessing. Raises as `rgb`.

        Args:
            spec: what a tower wants.
            device: where the first tower that asks reads them; None for the CPU. Bytes go there, a quarter of what
                pixels are, and become pixels there.
        """
        if spec not in self._pixels:
            resized = self.resized(spec)
            self._pixels[spec] = spec.normalise(resized if device is None else resized.to(device))
        return self._pixels[spec]

    @property
    def prepared(self) -> frozenset[PixelSpec]:
        """The towers for which frames were resized so far."""
        return frozenset(self._resized)


@runtime_checkable
class Video(Protocol):
    """Which frames of a video the model sees, and the means to read them."""

    @property
    def key(self) -> str:
        """A name that is stable across machines: it seeds the random pruners."""
        ...

    @property
    def instruction(self) -> str:
        """Text about sampling that the model wants before the question; empty when not asked for."""
        ...

    @property
    def timing(self) -> Timing | None:
        """Where the frames lie in the video; None where nothing but their seconds is known."""
        ...

    def chunks(self) -> Iterator[Frames]:
        """Decode the frames, a bounded number at a time, each with its second.

        VideoError where the file cannot be read; the message has path and cause.
        """
        ...
