"""Preprocessing equals the image processor that the reference used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmms_kvtp.pixels import ResizedPixels
from lmms_kvtp.types import Frames

GOLDEN = Path(__file__).parent / "goldens" / "llava_ref_tiny9.npz"


@pytest.mark.parametrize(
    ("frames", "pixels"), [("frames_uint8", "pixel_values"), ("big_frame_uint8", "big_pixel_values")]
)
def test_pixels_equal_the_reference_processor_bit_for_bit(frames: str, pixels: str) -> None:
    golden = np.load(GOLDEN)
    made = ResizedPixels((130, 130))(torch.from_numpy(golden[frames]))
    assert torch.equal(made, torch.from_numpy(golden[pixels]))


def test_height_width_and_channels_stay_in_place() -> None:
    rgb = torch.zeros(2, 5, 7, 3, dtype=torch.uint8)
    rgb[1, :, :, 2] = 255
    made = ResizedPixels((3, 4), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))(rgb)
    assert made.shape == (2, 3, 3, 4)
    expected = torch.tensor([[-0.2, -0.8, -2.4], [-0.2, -0.8, 5.6]])
    torch.testing.assert_close(made, expected[:, :, None, None].expand_as(made))


def test_the_filter_is_the_one_asked_for() -> None:
    rgb = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (1, 8, 11, 3), dtype=np.uint8))
    nearest = ResizedPixels((8, 11), resample=Image.Resampling.NEAREST.value)(rgb)
    shrunk = ResizedPixels((4, 5), resample=Image.Resampling.NEAREST.value)(rgb)
    assert set(shrunk.flatten().tolist()) <= set(nearest.flatten().tolist())
    assert not set(ResizedPixels((4, 5))(rgb).flatten().tolist()) <= set(nearest.flatten().tolist())


def test_equal_recipes_share_one_preprocessing() -> None:
    frames = Frames(torch.zeros(1, 6, 5, 3, dtype=torch.uint8), torch.zeros(1))
    first = frames.pixels(ResizedPixels((4, 4)))
    assert frames.pixels(ResizedPixels((4, 4))) is first
    assert frames.pixels(ResizedPixels((4, 5))) is not first


def test_no_frames_give_no_pixels() -> None:
    assert ResizedPixels((4, 5))(torch.zeros(0, 6, 7, 3, dtype=torch.uint8)).shape == (0, 3, 4, 5)
