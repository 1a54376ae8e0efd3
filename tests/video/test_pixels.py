"""Preprocessing equals the image processor that the reference used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from qwen_vl_utils.vision_process import smart_resize
from torchvision.transforms import InterpolationMode, functional
from transformers import InternVLVideoProcessor, Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

from lmms_kvtp.video.frames import Frames
from lmms_kvtp.video.pixels import ProcessorPixels, ResizedPixels, normalise

GOLDEN = Path(__file__).parents[1] / "goldens" / "llava_ref_tiny9.npz"


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


def noise(count: int, height: int, width: int) -> torch.Tensor:
    """Smooth shapes with some grain, as in a film."""
    rng = np.random.default_rng(5)
    rough = [Image.fromarray(part) for part in rng.integers(0, 256, (count, 9, 16, 3), dtype=np.uint8)]
    smooth = np.stack([np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in rough])
    return torch.from_numpy(np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


def test_every_byte_becomes_the_number_of_the_reference() -> None:
    mean, std = (0.5, 0.48145466, 0.1), (0.5, 0.26862954, 0.3)
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    scaled = (every.double() * (1 / 255)).float().permute(0, 3, 1, 2)
    column = [torch.tensor(values).view(3, 1, 1) for values in (mean, std)]
    assert torch.equal(normalise(every, mean, std), (scaled - column[0]) / column[1])


@pytest.mark.parametrize("threads", [1, 3])
def test_frames_are_resized_as_by_pillow_on_any_number_of_threads(threads: int) -> None:
    rgb, before = noise(7, 90, 160), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        resized = ResizedPixels((38, 30)).resize(rgb)
    finally:
        torch.set_num_threads(before)
    for frame, made in zip(rgb, resized, strict=True):
        image = Image.fromarray(frame.numpy()).resize((30, 38), Image.Resampling.BICUBIC)
        assert np.array_equal(np.asarray(image), made.numpy())


@pytest.mark.parametrize(
    ("filter", "size", "most"),
    [
        (Image.Resampling.BICUBIC, (38, 30), 1),
        (Image.Resampling.BILINEAR, (38, 30), 1),
        (Image.Resampling.BICUBIC, (130, 210), 2),
    ],
)
def test_the_fast_way_is_off_by_little_and_rarely(filter: Image.Resampling, size: tuple[int, int], most: int) -> None:
    spec, rgb = ResizedPixels(size, resample=filter.value), noise(3, 90, 160)
    exact, fast = spec.resize(rgb), spec.resize(rgb, fast=True)
    assert fast.is_contiguous()
    off = (exact.int() - fast.int()).abs()
    assert off.max() <= most
    assert 0 < (off > 0).float().mean() < 0.02


def test_the_fast_way_is_exact_where_torch_lacks_the_filter() -> None:
    spec, rgb = ResizedPixels((38, 30), resample=Image.Resampling.LANCZOS.value), noise(3, 90, 160)
    assert torch.equal(spec.resize(rgb), spec.resize(rgb, fast=True))


@pytest.mark.parametrize("size", [(48, 64), (200, 90), (1080, 1920), (30, 3000)])
@pytest.mark.parametrize("limits", [(200704, 602112), (1000, 5000)])
def test_frames_get_the_size_of_qwens_own_utilities(size: tuple[int, int], limits: tuple[int, int]) -> None:
    for factor in (28, 32):
        spec = ProcessorPixels((0.5,) * 3, (0.5,) * 3, None, factor, limits[0], float(limits[1]))
        wanted = smart_resize(*size, factor, *limits)
        assert spec.target(*size) == tuple(max(factor, side) for side in wanted)
    with pytest.raises(ValueError, match="frames of 4020 x 20 pixels: a side is more than 200 times the other"):
        spec.target(20, 4020)


def test_pixels_of_other_families_equal_their_processors_bit_for_bit() -> None:
    rgb = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 90, 130, 3), dtype=np.uint8))
    for own, factor in ((Qwen2VLVideoProcessor(cap_pixels_per_frame=False), 28), (Qwen3VLVideoProcessor(), 32)):
        spec = ProcessorPixels(tuple(own.image_mean), tuple(own.image_std), None, factor, 20000, 60000.0)
        size = list(spec.target(90, 130))
        video = functional.resize(rgb.permute(0, 3, 1, 2), size, InterpolationMode.BICUBIC, antialias=True).float()
        rows = own(videos=[video], do_resize=False, do_sample_frames=False, return_tensors="pt")
        first = rows["pixel_values_videos"][0].view(3, 2, factor // 2, factor // 2)  # the first patch of a step
        made = spec.normalise(spec.resize(rgb))
        assert torch.equal(made[:2, :, : factor // 2, : factor // 2].transpose(0, 1), first)
    square = InternVLVideoProcessor(size={"height": 56, "width": 56})
    spec = ProcessorPixels(tuple(square.image_mean), tuple(square.image_std), (56, 56))
    rows = square(videos=[rgb.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt")
    assert torch.equal(spec.normalise(spec.resize(rgb, fast=True)), rows["pixel_values_videos"][0])
