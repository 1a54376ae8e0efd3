"""From frames to what a vision tower reads."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
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
        """Turn resized frames into pixels."""
        ...


Shrink: TypeAlias = Callable[[PixelSpec, Callable[[], Tensor]], Tensor]
"""A function that makes frames resized for a tower, [T, h, w, 3], or takes them from where they were kept.
Its arguments are what the tower wants, and a function that gives the frames as they are, [T, H, W, 3]."""


def resize(
    spec: PixelSpec, rgb: Callable[[], UInt8[Tensor, "T H W 3"]], fast: bool = False
) -> UInt8[Tensor, "T h w 3"]:
    """Implements `Shrink`: makes what no cache keeps."""
    return spec.resize(rgb(), fast)


Channels = tuple[float, ...]

IN_TORCH = {Image.Resampling.BICUBIC.value: "bicubic", Image.Resampling.BILINEAR.value: "bilinear"}
"""Pillow's filters that torch has, too, for bytes and as wide when it shrinks."""


@dataclass(frozen=True)
class ResizedPixels:
    """SigLIP's preprocessing: resize without regard to the aspect ratio, scale to 0..1, normalise.

    The result is bit for bit that of transformers' SiglipImageProcessor.
    """

    size: tuple[int, int]
    """Height and width that the tower reads."""
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)
    resample: int = Image.Resampling.BICUBIC.value
    """Pillow's number of the filter."""

    def __call__(self, rgb: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T 3 h w"]:
        """Resize and normalise frames."""
        return self.normalise(self.resize(rgb))

    def resize(self, rgb: UInt8[Tensor, "T H W 3"], fast: bool = False) -> UInt8[Tensor, "T h w 3"]:
        """Resize frames, on as many threads as torch may use.

        Args:
            rgb: frames.
            fast: use torch's filter where it has this one. Its weights are rounded more: some bytes differ by 1,
                or by 2 where frames are enlarged.
        """
        height, width = self.size
        if fast and self.resample in IN_TORCH and len(rgb):
            mode = IN_TORCH[self.resample]
            columns = rgb.permute(0, 3, 1, 2)
            return F.interpolate(columns, (height, width), mode=mode, antialias=True).permute(0, 2, 3, 1).contiguous()
        resized = np.empty((len(rgb), height, width, 3), dtype=np.uint8)
        resize = partial(_resize, size=(width, height), resample=self.resample)
        threads = min(torch.get_num_threads(), len(rgb))
        if threads > 1:  # Pillow lets other threads run while it resizes
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(resize, rgb.numpy(), resized))
        else:
            list(map(resize, rgb.numpy(), resized))
        return torch.from_numpy(resized)

    def normalise(self, resized: UInt8[Tensor, "T h w 3"]) -> Float[Tensor, "T 3 h w"]:
        """Scale resized frames to 0..1, and normalise."""
        return normalise(resized, self.mean, self.std)


@dataclass(frozen=True)
class ProcessorPixels:
    """Preprocessing of the Qwen-VL and InternVL families, with the filters of torchvision that theirs have.

    Source: the video processors of transformers, and the sizes of qwen-vl-utils. The result is theirs bit for bit.
    """

    mean: Channels
    std: Channels
    size: tuple[int, int] | None = None
    """Height and width; None: the frame's own, rounded to multiples of `factor` within the two limits."""
    factor: int = 28
    min_pixels: int = 0
    max_pixels: float = math.inf
    again: tuple[float, float] | None = None
    """Least and most pixels by which frames are resized once more, where whole tokens have led out of the limits."""

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Find the height and width that a frame gets. Raises ValueError if a side is more than 200 times the other."""
        if self.size:
            return self.size
        if max(height, width) > 200 * min(height, width):
            raise ValueError(
                f"frames of {width} x {height} pixels: a side is more than 200 times the other; crop the video, or "
                "leave it out"
            )
        first = self._whole(height, width, float(self.min_pixels), float(self.max_pixels))
        return self._whole(*first, *self.again) if self.again else first

    def _whole(self, height: int, width: int, least: float, most: float) -> tuple[int, int]:
        rounded = [max(self.factor, round(side / self.factor) * self.factor) for side in (height, width)]
        if math.prod(rounded) > most:
            scale, whole = math.sqrt(height * width / most), math.floor
            rounded = [max(self.factor, whole(side / scale / self.factor) * self.factor) for side in (height, width)]
        elif math.prod(rounded) < least:
            scale = math.sqrt(least / (height * width))
            rounded = [math.ceil(side * scale / self.factor) * self.factor for side in (height, width)]
        return rounded[0], rounded[1]

    def resize(self, rgb: UInt8[Tensor, "T H W 3"], fast: bool = False) -> UInt8[Tensor, "T h w 3"]:
        """Resize frames, one at a time, with the family's own filter, whatever `fast` says."""
        from torchvision.transforms import InterpolationMode, functional, v2  # costs a second, and LLaVA has no use

        filtered = v2.functional.resize if self.size else functional.resize
        size, columns = list(replace(self, again=None).target(*rgb.shape[1:3])), torch.split(rgb.permute(0, 3, 1, 2), 1)
        resized = [filtered(frame, size, InterpolationMode.BICUBIC, antialias=True) for frame in columns]
        return torch.cat(resized).permute(0, 2, 3, 1).contiguous()

    def normalise(self, resized: UInt8[Tensor, "T h w 3"]) -> Float[Tensor, "T 3 y x"]:
        """Resize frames `again`; scale them to 0..1 and normalise, in one step as transformers does."""
        mean, std = (torch.tensor(values, device=resized.device).mul(1 / (1 / 255)) for values in (self.mean, self.std))
        pixels = resized.permute(0, 3, 1, 2).float()
        if self.again and (size := self._whole(resized.shape[1], resized.shape[2], *self.again)) != resized.shape[1:3]:
            from torchvision.transforms import InterpolationMode, v2

            pixels = v2.functional.resize(pixels, list(size), InterpolationMode.BICUBIC, antialias=True)
        return pixels.sub_(mean[:, None, None]).div_(std[:, None, None]).contiguous()


def normalise(resized: UInt8[Tensor, "T h w 3"], mean: Channels, std: Channels) -> Float[Tensor, "T 3 h w"]:
    """Turn bytes into numbers around 0, channels first.

    transformers' processor scales by 1 / 255 in float64 and rounds to float32: for each of the 256 bytes, that is
    byte / 255.
    """
    pixels = torch.empty(len(resized), 3, *resized.shape[1:3], device=resized.device)
    # tensors all, since on a GPU torch multiplies by the reciprocal of a plain number, and that is rounded
    columns = (torch.tensor(values).view(3, 1, 1) for values in ((255.0,) * 3, mean, std))
    bytes_max, means, deviations = (column.to(resized.device) for column in columns)
    return pixels.copy_(resized.permute(0, 3, 1, 2)).div_(bytes_max).sub_(means).div_(deviations)


def _resize(frame: NDArray[np.uint8], resized: NDArray[np.uint8], size: tuple[int, int], resample: int) -> None:
    resized[:] = np.asarray(Image.fromarray(frame).resize(size, resample))
