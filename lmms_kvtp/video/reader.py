"""What every decoder offers, and the reader that needs none: it has its frames in memory."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lmms_kvtp.video.frames import VideoError

CHUNK_BYTES = 2**28
"""Bytes of decoded frames that stand in memory at a time: all 16 of 1920x1080, 2 of 7680x4320."""


class Reader(ABC):
    """An open video, for one thread."""

    patched = 0
    """Frames read so far that are damaged in the file, and are shown as a codec patches them."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "t H W 3"]:
        """Decode frames, counted in order of presentation.

        Args:
            indices: ascending indices, repeats allowed; calls go forward through the video.

        Returns:
            The first of them, at least one: those before the first of another size, and CHUNK_BYTES at most.

        Raises:
            VideoError: a frame cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file and end the threads."""


def stacked(pictures: Iterable[NDArray[np.uint8]]) -> UInt8[Tensor, "t H W 3"]:
    """Stack pictures as `Reader.read` returns them."""
    alike: list[NDArray[np.uint8]] = []
    for picture in pictures:
        if alike and (picture.shape != alike[0].shape or (len(alike) + 1) * picture.nbytes > CHUNK_BYTES):
            break
        alike.append(picture)
    return torch.from_numpy(np.stack(alike))


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

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "t H W 3"]:
        """Copy frames; VideoError where an image file cannot be read."""
        return stacked(map(self._picture, indices))

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _picture(self, index: int) -> UInt8[NDArray[np.uint8], "H W 3"]:
        frame = self._frames[index]
        if isinstance(frame, (Tensor, np.ndarray)):
            return np.asarray(frame)
        if isinstance(frame, Image.Image):
            return _colors(frame, f"frame {index} of {self._name}")
        try:
            with Image.open(frame) as image:
                return _colors(image, f"frame {index} of {self._name}, {frame}")
        except (OSError, Image.DecompressionBombError) as error:
            raise VideoError(f"cannot read frame {index} of {self._name}, {frame}: {error}") from error


def _colors(image: Image.Image, name: str) -> UInt8[NDArray[np.uint8], "H W 3"]:
    """Convert an image to RGB; grey tones of 16 bits, and floats of 0 to 1, keep their order.

    VideoError where tones are outside that, so that nobody knows what is white.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return np.array(image.convert("RGB"))
    tones, white = np.asarray(image, dtype=np.float64), 1.0 if image.mode == "F" else 65535.0
    if not (tones.min() >= 0 and tones.max() <= white):
        found = f"{tones.min():g} to {tones.max():g}"
        raise VideoError(f"{name} has grey tones of {found}, and white is {white:g}; save it in 8 or 16 bits")
    return np.repeat((tones * (255 / white)).round().astype(np.uint8)[..., None], 3, axis=2)
