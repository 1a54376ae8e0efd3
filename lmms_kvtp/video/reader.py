"""What every decoder offers, and the two readers that need none: one opens late, one has its frames in memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lmms_kvtp.video.frames import VideoError


class Reader(ABC):
    """An open video, for one thread."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Decode frames, counted in order of presentation.

        Args:
            indices: ascending indices, repeats allowed; calls go forward through the video.

        Raises:
            VideoError: a frame cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file and end the threads."""


class LateReader(Reader):
    """Opens its video when the first frames are wanted, which may be never."""

    def __init__(self, open: Callable[[], Reader]) -> None:
        """Keep `open` for later."""
        self._open = open
        self._reader: Reader | None = None

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Decode frames; raises what opening and reading raise."""
        self._reader = self._reader or self._open()
        return self._reader.read(indices)

    def close(self) -> None:
        """Close what was opened."""
        if self._reader:
            self._reader.close()


Images: TypeAlias = Tensor | NDArray[Any] | Sequence[Image.Image] | Sequence[str | PathLike[str]]
"""Frames as uint8 of shape [T, H, W, 3], or as one RGB image or image file each."""


class MemoryReader(Reader):
    """Reads tensors, arrays, images and image files, in any order; files are opened only when they are wanted."""

    def __init__(self, frames: Images, name: str) -> None:
        """Check what can be checked without opening files.

        Args:
            frames: all frames of the video.
            name: what messages call the video.

        Raises:
            VideoError: no frames, or a tensor or array that is not RGB in uint8.
        """
        if isinstance(frames, (Tensor, np.ndarray)):
            shape = tuple(frames.shape)
            if len(shape) != 4 or shape[-1] != 3 or frames.dtype not in (torch.uint8, np.uint8):
                dtype = frames.dtype
                raise VideoError(f"the frames of {name} are {dtype} of shape {shape}; give uint8 of shape (T, H, W, 3)")
        if len(frames) == 0:
            raise VideoError(f"video {name} has no frames; give at least one")
        self._frames, self._name = frames, name

    def __len__(self) -> int:
        """Count the frames."""
        return len(self._frames)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "T H W 3"]:
        """Copy frames.

        Raises:
            VideoError: an image file cannot be read, or images differ in size.
        """
        pictures = [self._picture(index) for index in indices]
        for index, picture in zip(indices, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                first, other = (f"{p.shape[1]}x{p.shape[0]}" for p in (pictures[0], picture))
                raise VideoError(f"frame {index} of {self._name} is {other}, others {first}; make all of one size")
        return torch.stack(pictures)

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _picture(self, index: int) -> UInt8[Tensor, "H W 3"]:
        frame = self._frames[index]
        if isinstance(frame, (Tensor, np.ndarray)):
            return torch.as_tensor(frame)
        if isinstance(frame, Image.Image):
            return _colors(frame, f"frame {index} of {self._name}")
        try:
            with Image.open(frame) as image:
                return _colors(image, f"frame {index} of {self._name}, {frame}")
        except (OSError, Image.DecompressionBombError) as error:
            raise VideoError(f"cannot read frame {index} of {self._name}, {frame}: {error}") from error


def _colors(image: Image.Image, name: str) -> UInt8[Tensor, "H W 3"]:
    """Convert an image to RGB; grey tones of 16 bits, and floats of 0 to 1, keep their order.

    Raises:
        VideoError: tones are outside that, so that nobody knows what is white.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return torch.from_numpy(np.array(image.convert("RGB")))
    tones, white = np.asarray(image, dtype=np.float64), 1.0 if image.mode == "F" else 65535.0
    if not (tones.min() >= 0 and tones.max() <= white):
        found = f"{tones.min():g} to {tones.max():g}"
        raise VideoError(f"{name} has grey tones of {found}, and white is {white:g}; save it in 8 or 16 bits")
    grey = torch.from_numpy((tones * (255 / white)).round().astype(np.uint8))
    return grey[..., None].repeat(1, 1, 3)
