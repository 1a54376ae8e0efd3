"""Images in tiles against transformers' own LlavaOnevision class and its image processor, in both layouts."""

import json
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.checkpoints import GOLDEN, write_tiny
from transformers import AutoTokenizer, Qwen2Config

from lmms_kvtp.cost.flops import vision_flops
from lmms_kvtp.doctor.reference import transformers_model
from lmms_kvtp.encode import Encoded, encode_still
from lmms_kvtp.method import build_method
from lmms_kvtp.pipeline import finish, prepare
from lmms_kvtp.questions import Question
from lmms_kvtp.types import NEWLINE, VISION, GenerationOptions
from lmms_kvtp.vlms.llava_video import LlavaVideo, load_llava_video
from lmms_kvtp.vlms.tiles import StillImage

SIDE = 66
PAIRS = [[SIDE * rows, SIDE * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
SIZES = [(66, 66), (70, 190), (190, 70), (131, 133), (300, 310), (40, 200), (97, 31), (200, 200)]
METHOD = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "keep_ratio": 0.2}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> LlavaVideo:
    fields = {"image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": [pair[::-1] for pair in PAIRS]}
    return load_llava_video(str(write_tiny(tmp_path_factory.mktemp("tiles"), siglip=False, fields=fields)))


@pytest.fixture(scope="module")
def reference(original: LlavaVideo) -> transformers.LlavaOnevisionForConditionalGeneration:
    model = transformers_model(original)
    model.config.image_grid_pinpoints, model.config.vision_aspect_ratio = PAIRS, "anyres_max_4"
    return model


@pytest.fixture(scope="module")
def converted(
    reference: transformers.LlavaOnevisionForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory
) -> LlavaVideo:
    folder = tmp_path_factory.mktemp("converted")
    reference.save_pretrained(folder)
    AutoTokenizer.from_pretrained(GOLDEN, config=Qwen2Config()).save_pretrained(folder)
    return load_llava_video(str(folder))


def picture(height: int, width: int, alone: bool = True, seed: int = 0) -> StillImage:
    rng = torch.Generator().manual_seed(seed)
    return StillImage("noise", torch.randint(0, 256, (height, width, 3), generator=rng, dtype=torch.uint8), alone)


@torch.inference_mode()
def sequence(
    model: transformers.LlavaOnevisionForConditionalGeneration, vlm: LlavaVideo, pictures: list[StillImage]
) -> list[torch.Tensor]:
    """What transformers' class puts into the prompt for each image, from the same pixels."""
    assert vlm.tiling
    pieces = [vlm.pixel_spec(vlm.tiling.pieces(one)) for one in pictures]
    most = max(map(len, pieces))
    padded = [torch.cat([p, p.new_zeros(most - len(p), *p.shape[1:])]) for p in pieces]
    find = model.model.get_image_features  # transformers < 5: the model around it takes no number of images
    more = {"output_hidden_states": True} if "kwargs" in signature(find).parameters else {}
    features = find(
        torch.stack(padded),
        torch.tensor([one.rgb.shape[:2] for one in pictures]),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        batch_num_images=torch.tensor([len(pictures)]),
        **more,
    )
    return list(getattr(features, "pooler_output", features))


def assembled(
    vlm: LlavaVideo, pictures: list[StillImage], text: str = "What is it?"
) -> tuple[torch.Tensor, list[Encoded]]:
    encoded = [encode_still(vlm, one) for one in pictures]
    return vlm.assemble([one.whole for one in encoded if one.whole], text), encoded


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("layout", ["original", "converted"])
def test_features_and_logits_are_those_of_transformers_own_class(
    request: pytest.FixtureRequest,
    reference: transformers.LlavaOnevisionForConditionalGeneration,
    layout: str,
    height: int,
    width: int,
) -> None:
    vlm: LlavaVideo = request.getfixturevalue(layout)
    one = picture(height, width)
    [theirs] = sequence(reference, vlm, [one])
    prompt, _ = assembled(vlm, [one])
    visual = prompt.embeds[prompt.role > 0]
    torch.testing.assert_close(visual, theirs, atol=1e-4, rtol=0)
    before, behind = vlm.chat.around("What is it?", visuals=True)
    embed = reference.get_input_embeddings()
    parts = [embed(torch.tensor(ids)) for ids in (before, behind)]
    with torch.inference_mode():
        logits = reference(inputs_embeds=torch.cat([parts[0], theirs, parts[1]])[None], logits_to_keep=1).logits[0, -1]
    torch.testing.assert_close(vlm.next_token_logits(prompt), logits, atol=1e-3, rtol=0)


def test_several_images_are_one_tile_each_with_a_space_between_them(
    original: LlavaVideo, reference: transformers.LlavaOnevisionForConditionalGeneration
) -> None:
    pictures = [picture(70, 190, alone=False), picture(97, 31, alone=False, seed=1)]
    theirs = sequence(reference, original, pictures)
    prompt, _ = assembled(original, pictures)
    start, length = 14, 81 + 1
    torch.testing.assert_close(prompt.embeds[start : start + length], theirs[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(prompt.embeds[start + length + 1 :][:length], theirs[1], atol=1e-4, rtol=0)
    [space] = original.chat.plain(" ")
    weight = original.network.llm.get_input_embeddings().weight
    torch.testing.assert_close(prompt.embeds[start + length], weight[space])
    assert prompt.frame.unique().tolist() == [-1, 0, 1]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("alone", [True, False])
def test_pixels_are_those_of_transformers_image_processor(
    original: LlavaVideo, height: int, width: int, alone: bool
) -> None:
    slow = vars(transformers).get("LlavaOnevisionImageProcessorPil") or getattr(
        transformers, "LlavaOnevisionImageProcessorPil", transformers.LlavaOnevisionImageProcessor
    )
    half = [0.5] * 3
    processor = slow(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PAIRS, image_mean=half, image_std=half)
    one = picture(height, width, alone)
    image = one.rgb.numpy()
    batch = [image] if alone else [[image, image]]
    theirs = np.asarray(processor(batch, input_data_format="channels_last", return_tensors="np")["pixel_values"][0])
    assert original.tiling
    torch.testing.assert_close(
        original.pixel_spec(original.tiling.pieces(one)), torch.from_numpy(theirs).float(), atol=1e-6, rtol=0
    )


def test_an_image_is_kept_whole_and_costs_what_the_tower_saw(original: LlavaVideo) -> None:
    method = build_method(METHOD, {"encoder": "siglip"})
    encoded = encode_still(original, picture(131, 131))
    ready = prepare(original, method, [encoded], Question("What is it?"))
    [said] = finish(original, method, [ready], GenerationOptions(max_new_tokens=3))
    cost = said.cost
    vision = int((ready.prompt.role == VISION).sum())
    assert cost.tokens_kept == cost.tokens_before == vision == 81 + 18 * 18
    assert cost.tokens_structural == int((ready.prompt.role == NEWLINE).sum()) == 18
    assert (cost.num_frames, cost.prompt_tokens) == (1, ready.prompt.length)
    assert cost.flops["vision"] == vision_flops(original.vision, 5)


def test_without_a_way_of_its_own_a_model_refuses_images(vlm: LlavaVideo) -> None:
    assert vlm.tiling is None
    with pytest.raises(ValueError, match=r"images=tiles: .* has no way of its own.*anyres_max_N.*images=frames"):
        encode_still(vlm, picture(20, 30))


def test_pinpoints_of_another_tower_are_no_tiling(tmp_path: Path) -> None:
    fields = {"image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": [[384, 384], [384, 768]]}
    assert load_llava_video(str(write_tiny(tmp_path, siglip=False, fields=fields))).tiling is None
    assert json.loads((tmp_path / "config.json").read_text())["image_aspect_ratio"] == "anyres_max_9"
