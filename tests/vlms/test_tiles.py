"""How an image is cut into tiles, and what stays of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lmms_kvtp.vlms.tiles import StillImage, Tiling, read_tiling

SIDE, PATCHES = 6, 3
PAIRS = [(12, 12), (12, 6), (6, 12), (18, 6)]


def tiling(most: int = 9) -> Tiling:
    found = read_tiling(f"anyres_max_{most}", PAIRS, "spatial_unpad", SIDE, PATCHES)
    assert found
    return found


def picture(height: int, width: int, alone: bool = True) -> StillImage:
    rgb = torch.arange(height * width * 3).reshape(height, width, 3) % 251
    return StillImage("noise", rgb.to(torch.uint8), alone)


def features(pieces: int) -> Tensor:
    """Each patch knows its number: piece by piece, row by row."""
    return torch.arange(float(pieces * PATCHES**2)).reshape(pieces, PATCHES**2, 1)


@pytest.mark.parametrize(
    ("height", "width", "best"),
    [(6, 12, (6, 12)), (60, 20, (12, 6)), (30, 31, (12, 12)), (10, 40, (6, 18)), (1, 1, (6, 12)), (5, 6, (6, 12))],
)
def test_the_resolution_shows_most_of_the_image_with_least_padding(height: int, width: int, best: Any) -> None:
    assert tiling().best(height, width) == best


def test_pairs_are_read_as_each_layout_writes_them() -> None:
    original, other = tiling(), read_tiling("anyres_max_9", PAIRS, "spatial_unpad", SIDE, PATCHES, hugging_face=True)
    assert other and original.resolutions == tuple((h, w) for w, h in other.resolutions)
    assert (original.rounded, other.rounded, original.most) == (False, True, 9)
    named = read_tiling("anyres_max_4", "(1x1),...,(2x3)", "spatial_unpad", SIDE, PATCHES)
    assert named and named.resolutions == ((6, 6), (12, 6), (18, 6), (6, 12), (12, 12), (18, 12))


@pytest.mark.parametrize(
    ("aspect", "pairs", "merge"),
    [
        ("pad", PAIRS, "spatial_unpad"),
        (None, PAIRS, "spatial_unpad"),
        ("anyres", PAIRS, "spatial_unpad"),
        ("anyres_max_9", None, "spatial_unpad"),
        ("anyres_max_9", "square", "spatial_unpad"),
        ("anyres_max_9", [(384, 384)], "spatial_unpad_of_another_tower"),
        ("anyres_max_9", PAIRS, "flat"),
    ],
)
def test_other_configurations_have_no_tiling(aspect: object, pairs: object, merge: str) -> None:
    side = 5 if "another" in merge else SIDE
    assert read_tiling(aspect, pairs, merge, side, PATCHES) is None


def test_an_image_is_cut_row_by_row_behind_the_whole() -> None:
    image = picture(12, 12)
    pieces = tiling().pieces(image)
    assert pieces.shape == (5, SIDE, SIDE, 3)
    torch.testing.assert_close(pieces[1:3], torch.stack([image.rgb[:6, :6], image.rgb[:6, 6:]]))
    torch.testing.assert_close(pieces[3:], torch.stack([image.rgb[6:, :6], image.rgb[6:, 6:]]))


def test_padding_is_black_around_one_image_and_grey_around_one_of_several() -> None:
    alone = tiling().pieces(picture(2, 12))  # fills the width of two tiles, 2 of 6 rows
    assert alone.shape == (3, SIDE, SIDE, 3)
    assert (alone[1:, [0, 1, 4, 5]] == 0).all() and (alone[1:, 2:4] > 0).any()
    one = tiling().pieces(picture(3, 7, alone=False))
    assert one.shape == (1, 7, 7, 3)
    assert (one[0, [0, 1, 5, 6]] == 127).all() and torch.equal(one[0, 2:5], picture(3, 7).rgb)


def test_a_newline_follows_each_row_of_the_tiles_and_none_the_whole() -> None:
    packed = tiling().pack(picture(6, 12), features(3))
    rows = [9, 10, 11, 18, 19, 20, 12, 13, 14, 21, 22, 23, 15, 16, 17, 24, 25, 26]  # of two tiles, side by side
    assert packed.embeds.flatten().tolist() == [*range(9), *rows]
    assert packed.newline is not None and packed.newline.nonzero().flatten().tolist() == [14, 20, 26]
    assert packed.grid == (1, 27) and packed.num_frames == 1


@pytest.mark.parametrize(
    ("height", "width", "kept"), [(2, 12, 3 - 2), (4, 12, 3 - 0), (12, 2, 6 * (3 - 2)), (12, 5, 6 * (3 - 0))]
)
def test_rows_and_columns_of_padding_are_cut_off_on_both_sides(height: int, width: int, kept: int) -> None:
    packed = tiling().pack(picture(height, width), features(3))
    assert len(packed.embeds) - 9 == (kept * 6 if width > height else kept)


def test_one_of_several_images_has_one_newline_behind_it() -> None:
    packed = tiling().pack(picture(6, 12, alone=False), features(1))
    assert packed.newline is not None and packed.newline.nonzero().flatten().tolist() == [8]


def test_a_map_of_too_many_patches_is_made_smaller() -> None:
    image = picture(12, 12)
    same, smaller = tiling(most=4).pack(image, features(5)), tiling(most=2).pack(image, features(5))
    assert len(same.embeds) == 9 + 36
    side = int(6 // (36 / 18) ** 0.5)
    assert len(smaller.embeds) == 9 + side * side and smaller.newline is not None and int(smaller.newline.sum()) == side
