"""From decoded frames to the pixels that a vision tower reads."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class ResizedPixels:
    """Frames resized without regard to their aspect ratio, scaled to 0..1 and normalised: SigLIP's preprocessing.

    Bit for bit what transformers' SiglipImageProcessor returns.
    """

    size: tuple[int, int]
    """Height and width that the tower reads."""
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)
    resample: int = Image.Resampling.BICUBIC.value
    """Pillow's number of the filter."""

    def __call__(self, rgb: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T 3 h w"]:
        """Resize and normalise frames."""
        height, width = self.size
        pixels = torch.empty(len(rgb), 3, height, width)
        for frame, resized in zip(rgb, pixels, strict=True):
            image = Image.fromarray(frame.numpy()).resize((width, height), self.resample)
            # the processor scales in float64 and rounds to float32 before it normalises
            resized.copy_(torch.from_numpy(np.array(image)).permute(2, 0, 1).double().mul_(1 / 255))
        return pixels.sub_(_column(self.mean)).div_(_column(self.std))


def _column(values: Channels) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values).view(3, 1, 1)
