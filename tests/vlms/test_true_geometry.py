"""A small model at the true geometry: frames of 384 x 384 in patches of 14, so 27 x 27 of them, end to end."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import checkpoints
from helpers.answers import answers
from helpers.small_videos import Clip

from lmms_kvtp.method import build_method
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions, PackedTokens
from lmms_kvtp.vlms.layout import Newlines, lay_out
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

FRAMES = 3
CLIP = Clip(FRAMES, 40, 72)
PLAIN = {"scorer": "uniform", "allocator": "uniform"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "IMAGE_SIZE", 384)
        patch.setattr(checkpoints, "PATCH_SIZE", 14)
        return checkpoints.write_tiny(tmp_path_factory.mktemp("true"), siglip=False)


@pytest.mark.parametrize(("mode", "side"), [("bilinear", 14), ("average", 13)])
def test_whole_frames_have_the_published_numbers_of_tokens(folder: Path, mode: str, side: int) -> None:
    vlm = load_llava_video(str(folder), LoadOptions(mm_spatial_pool_mode=mode))
    assert (vlm.vision.patches, vlm.pool.patches, vlm.pool.grid) == (729, (27, 27), (side, side))
    method = build_method({**PLAIN, "pruner": "none"}, {"encoder": "siglip"})
    [said] = answers(vlm, method, [CLIP], [Question("What?")], GenerationOptions(max_new_tokens=2))
    text = sum(map(len, vlm.chat.around("What?", visuals=True)))
    assert said.cost.tokens_before == said.cost.tokens_kept == FRAMES * side * side
    assert said.cost.tokens_structural == FRAMES * side
    assert said.cost.prompt_tokens == FRAMES * side * (side + 1) + text
    assert {14: 196, 13: 169}[side] == side * side


@pytest.mark.parametrize(
    ("position", "side", "lengths"),
    [
        ("grid", 13, (11648, 23296)),
        ("grid", 14, (13440, 26880)),
        ("frame", 13, (10880, 21760)),
        ("frame", 14, (12608, 25216)),
        ("one_token", 13, (10817, 21633)),
        ("one_token", 14, (12545, 25089)),
        ("no_token", 13, (10816, 21632)),
        ("no_token", 14, (12544, 25088)),
    ],
)
def test_64_and_128_frames_have_the_lengths_of_the_reference(
    position: str, side: int, lengths: tuple[int, int]
) -> None:
    for count, length in zip((64, 128), lengths, strict=True):
        place = torch.arange(count * side**2)
        embeds, size = torch.zeros(len(place), 1), torch.ones(len(place))
        packed = PackedTokens(embeds, place // side**2, place % side**2, size, (side, side), count)
        assert lay_out(packed, torch.ones(1), Newlines(position)).length == length


@pytest.mark.parametrize("mode", ["bilinear", "average"])
def test_pooling_of_27_rows_is_the_models_own(folder: Path, mode: str) -> None:
    vlm = load_llava_video(str(folder), LoadOptions(mm_spatial_pool_mode=mode))
    [frames] = CLIP.chunks()
    with torch.inference_mode():
        pixels = frames.pixels(vlm.pixel_spec)
        maps = vlm.network.projector(vlm.network.tower(pixels)).reshape(FRAMES, 27, 27, -1).permute(0, 3, 1, 2)
        if mode == "bilinear":
            pooled = F.interpolate(maps, size=(14, 14), mode="bilinear")
        else:
            pooled = torch.stack(
                [maps[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((2, 3)) for r in range(13) for c in range(13)],
                -1,
            ).reshape(*maps.shape[:2], 13, 13)
    assert pixels.shape == (FRAMES, 3, 384, 384)
    torch.testing.assert_close(vlm.encode(frames).embeds, pooled.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pruner", ["random", "grid"])
def test_pruned_prompts_keep_their_share(folder: Path, pruner: str) -> None:
    vlm = load_llava_video(str(folder))
    method = build_method({**PLAIN, "pruner": pruner, "keep_ratio": "0.2"}, {"encoder": "siglip"})
    questions = [Question("What?"), Question("Who is there?")]
    first, second = answers(vlm, method, [CLIP], questions, GenerationOptions(max_new_tokens=2))
    assert first.cost.tokens_kept == math.floor(0.2 * FRAMES * 196)
    assert first.cost.tokens_structural == FRAMES
    assert second.cost.reused_tokens >= 14 + first.cost.tokens_kept + FRAMES
