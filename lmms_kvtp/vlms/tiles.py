"""LLaVA-OneVision's own way with images: tiles of the resolution that suits an image, and the image as a whole."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lmms_kvtp.types import PackedTokens
from lmms_kvtp.video.load import are_images
from lmms_kvtp.video.reader import MemoryReader

BACKGROUND = 127
"""Grey level around an image that is made a square: SigLIP's mean, 0.5, of 255."""
ENLARGED = 1.1
"""Factor by which a side may exceed that of the most tiles before the map is made smaller."""


@dataclass(frozen=True)
class StillImage:
    """An image that is asked about as such, and not as a frame of a video."""

    key: str
    """A name that is stable across machines."""
    rgb: UInt8[Tensor, "H W 3"]
    alone: bool
    """Whether it is the only image of its question: a model may then show more of it."""


def still_images(visuals: Sequence[Any], name: str) -> list[StillImage]:
    """Read the images of a question; none where its visuals are videos, folders of frames, or of several kinds.

    VideoError where an image file cannot be read.
    """
    if not are_images(visuals):
        return []
    images = [MemoryReader([visual], name).read([0])[0] for visual in visuals]
    return [StillImage(f"{name} {place}", rgb, len(images) == 1) for place, rgb in enumerate(images)]


@dataclass(frozen=True)
class Tiling:
    """How images are cut, and how features of the pieces are laid out.

    The only image of a question is seen twice: as a whole, squeezed into one square, and in tiles. The features of the
    tiles are put together, the padding around the image is cut off, the map is scaled down where it has more patches
    than `most` tiles, and a newline follows each of its rows. Several images are one square each, padded instead of
    squeezed, with one newline behind it. Nothing is pooled.

    Source: LLaVA-OneVision (arXiv 2408.03326), "anyres_max"; several images as in the released evaluation code.
    """

    resolutions: tuple[tuple[int, int], ...]
    """Height and width in pixels, multiples of `side`; of equally good ones the first is taken."""
    side: int
    """Pixels of a tile, which the tower sees at once."""
    patches: int
    """Rows of a tile's patches."""
    most: int
    """Number of tiles whose patches all stay; the map of more tiles is made smaller."""
    rounded: bool = False
    """Whether lengths are rounded to seven digits before they are cut to whole patches, as by transformers' class."""

    def pieces(self, still: StillImage) -> UInt8[Tensor, "n h w 3"]:
        """Cut an image into what the tower sees: one padded square, or the whole and its tiles, row by row."""
        image = Image.fromarray(still.rgb.numpy())
        if not still.alone:
            return _stack([_padded(image, (max(image.size), max(image.size)), BACKGROUND)])
        height, width = self.best(image.height, image.width)
        padded = _padded(image.resize(_fitted(image, height, width)), (width, height), 0)
        corners = [(x, y) for y in range(0, height, self.side) for x in range(0, width, self.side)]
        tiles = [padded.crop((x, y, x + self.side, y + self.side)) for x, y in corners]
        return _stack([image.resize((self.side, self.side)), *tiles])

    def best(self, height: int, width: int) -> tuple[int, int]:
        """Choose the resolution that shows most of an image's pixels; of equal ones, that with the least padding."""

        def seen(resolution: tuple[int, int]) -> tuple[int, int]:
            scale = min(resolution[1] / width, resolution[0] / height)
            pixels = min(int(width * scale) * int(height * scale), width * height)
            return pixels, pixels - resolution[0] * resolution[1]

        return max(self.resolutions, key=seen)

    def pack(self, still: StillImage, features: Float[Tensor, "n P D"]) -> PackedTokens:
        """Lay out the features of an image's pieces."""
        whole, newline = features[0], torch.zeros(features.shape[1], dtype=torch.bool)
        if still.alone:
            tiles = self._map(still, features[1:])  # [rows, columns, D]
            last = torch.zeros(tiles.shape[:2], dtype=torch.bool)
            last[:, -1] = True
            whole, newline = torch.cat([whole, tiles.flatten(0, 1)]), torch.cat([newline, last.flatten()])
        else:
            newline[-1] = True
        count = len(whole)
        zeros, patch = torch.zeros(count, dtype=torch.long), torch.arange(count)
        size = torch.ones(count, device=whole.device)
        return PackedTokens(whole, zeros, patch, size, (1, count), num_frames=1, newline=newline.cpu())

    def _map(self, still: StillImage, tiles: Float[Tensor, "n P D"]) -> Float[Tensor, "r c D"]:
        image_height, image_width = still.rgb.shape[:2]
        height, width = self.best(image_height, image_width)
        rows, columns = height // self.side, width // self.side
        maps = tiles.reshape(rows, columns, self.patches, self.patches, -1).permute(4, 0, 2, 1, 3)
        joined = maps.flatten(1, 2).flatten(2, 3)  # [D, rows, columns]
        joined = self._unpadded(joined, image_height, image_width)
        ratio = math.sqrt(joined.shape[1] * joined.shape[2] / (self.most * self.patches**2))
        if ratio > ENLARGED:
            size = [int(length // ratio) for length in joined.shape[1:]]
            joined = F.interpolate(joined[None], size, mode="bilinear")[0]
        return joined.permute(1, 2, 0)

    def _unpadded(self, joined: Float[Tensor, "D r c"], height: int, width: int) -> Float[Tensor, "D h w"]:
        """Cut off patches that show padding only: an even number, on two sides."""
        rows, columns = joined.shape[1:]
        if width / height > columns / rows:
            padding = (rows - self._whole(height * (columns / width))) // 2
            return joined[:, padding : rows - padding]
        padding = (columns - self._whole(width * (rows / height))) // 2
        return joined[:, :, padding : columns - padding]

    def _whole(self, length: float) -> int:
        return int(round(length, 7)) if self.rounded else int(length)


def read_tiling(
    aspect: object, pinpoints: object, merge_type: str, side: int, patches: int, hugging_face: bool = False
) -> Tiling | None:
    """Read the tiling that config.json describes; None where it describes none that fits the tower.

    Args:
        aspect: `image_aspect_ratio`, `anyres_max_9` or the like.
        pinpoints: `image_grid_pinpoints`: a list of pairs, or text such as `(1x1),...,(6x6)`, in tiles.
        merge_type: `mm_patch_merge_type`.
        side: pixels of the tower's image.
        patches: rows of its patches.
        hugging_face: pairs are height and width; in the original layout they are width and height.
    """
    most = re.fullmatch(r"anyres_max_(\d+)", str(aspect))
    pairs = _pairs(pinpoints, side)
    fits = all(length > 0 and length % side == 0 for pair in pairs for length in pair)
    if most is None or "unpad" not in merge_type or not pairs or not fits:
        return None
    resolutions = pairs if hugging_face else [(height, width) for width, height in pairs]
    return Tiling(tuple(resolutions), side, patches, int(most[1]), rounded=hugging_face)


def _pairs(pinpoints: object, side: int) -> list[tuple[int, int]]:
    if isinstance(pinpoints, str):
        ends = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
        if not ends:
            return []
        (first, second), (last_first, last_second) = ends[0], ends[-1]
        return [(a * side, b * side) for a in range(first, last_first + 1) for b in range(second, last_second + 1)]
    return [(int(a), int(b)) for a, b in pinpoints] if isinstance(pinpoints, Sequence) else []


def _fitted(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """Scale width and height of an image so that it fills one side of a resolution and keeps its shape."""
    across, down = width / image.width, height / image.height
    if across < down:
        return width, min(math.ceil(image.height * across), height)
    return min(math.ceil(image.width * down), width), height


def _padded(image: Image.Image, size: tuple[int, int], level: int) -> Image.Image:
    padded = Image.new("RGB", size, (level,) * 3)
    padded.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return padded


def _stack(images: list[Image.Image]) -> UInt8[Tensor, "n h w 3"]:
    return torch.from_numpy(np.stack([np.array(image) for image in images]))
