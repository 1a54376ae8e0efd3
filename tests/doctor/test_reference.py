"""Our logits against transformers' own class, the Hugging Face layout, and the published logits."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import GOLDEN, write_tiny
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Config

from lmms_kvtp.doctor import reference
from lmms_kvtp.doctor.reference import (
    PUBLISHED,
    Parity,
    reference_logits,
    transformers_model,
    verdict_lines,
)
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

QUESTION = "What is the person doing?"


@pytest.fixture(scope="module")
def converted(vlm: LlavaVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `vlm` as transformers' class writes it, its two markers in the tokenizer and the vocabulary."""
    folder = tmp_path_factory.mktemp("converted")
    model = transformers_model(vlm)
    model.resize_token_embeddings(499, mean_resizing=False)
    model.save_pretrained(folder)
    rename(folder, ("vision_tower.vision_model.", "vision_tower."))  # as transformers < 5 names it
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN, config=Qwen2Config())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    assert tokenizer.convert_tokens_to_ids(["<image>", "<video>"]) == [483, 484]
    tokenizer.save_pretrained(folder)
    return folder


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def rename(folder: Path, *renamed: tuple[str, str]) -> None:
    weights = load_file(folder / "model.safetensors")
    for old, new in renamed:
        weights = {new + key.removeprefix(old) if key.startswith(old) else key: t for key, t in weights.items()}
    save_file(weights, folder / "model.safetensors")


def frames(count: int) -> Frames:
    rgb = torch.randint(0, 256, (count, 20, 30, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Frames(rgb, torch.arange(count).float())


def logits(vlm: LlavaVideo) -> torch.Tensor:
    return reference_logits(vlm, frames(3), QUESTION)[0].ours


def close(made: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to the rounding that depends on where a tensor lies in memory."""
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("position", ["grid", "frame", "one_token", "no_token"])
def test_transformers_own_class_gives_the_same_logits(tiny_folder: Path, position: str) -> None:
    vlm = load_llava_video(str(tiny_folder), LoadOptions(mm_newline_position=position))
    [check] = reference_logits(vlm, frames(4), QUESTION)
    assert check.passed and check.difference < 1e-4
    assert check.ours.shape == check.reference.shape == (483,)
    assert verdict_lines([check]).startswith("ok   transformers' LlavaOnevision: largest difference")


@pytest.mark.parametrize("pooling", ["bilinear", "average", "max"])
@pytest.mark.parametrize("pretrained", ["tiny", str(GOLDEN)], ids=["embedded", "odd grid"])
def test_each_pooling_stands_in_for_that_of_transformers_class(pretrained: str, pooling: str) -> None:
    vlm = load_llava_video(pretrained, LoadOptions(device="cpu", mm_spatial_pool_mode=pooling))
    [check] = reference_logits(vlm, frames(3), QUESTION)
    assert check.difference < 1e-4
    assert check.name == "transformers' LlavaOnevision" + ("" if pooling == "bilinear" else f" with {pooling} pooling")


@pytest.mark.parametrize("newlines", ["row", "frame", "none"])
def test_newlines_that_are_asked_for_stand_in_both(tiny_folder: Path, newlines: str) -> None:
    vlm = load_llava_video(str(tiny_folder), LoadOptions(newlines=newlines, mm_newline_position="frame"))
    [check] = reference_logits(vlm, frames(2), QUESTION)
    assert check.difference < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_positions_are_those_of_the_model(tiny_folder: Path, dtype: str) -> None:
    vlm = load_llava_video(str(tiny_folder), LoadOptions(dtype=dtype))
    assert reference_logits(vlm, frames(8), QUESTION)[0].passed
    model = transformers_model(vlm)
    assert {weight.dtype for weight in model.parameters()} == {vlm.dtype}
    theirs = model.get_decoder().rotary_emb.inv_freq
    assert torch.equal(theirs, vlm.network.llm.model.rotary_emb.inv_freq) and theirs.dtype == torch.float32


def test_a_wrong_weight_is_seen(tiny_folder: Path) -> None:
    vlm = load_llava_video(str(tiny_folder))
    model = transformers_model(vlm)
    assert model.get_input_embeddings().weight.data_ptr() == vlm.network.llm.get_input_embeddings().weight.data_ptr()
    vlm.network.projector[1] = torch.nn.ReLU()
    [check] = reference_logits(vlm, frames(2), QUESTION)
    assert not check.passed
    assert verdict_lines([check]).startswith("FAIL")


def test_what_cannot_be_compared_is_refused(tiny_folder: Path) -> None:
    vlm = load_llava_video(str(tiny_folder))
    vlm.options = replace(vlm.options, device_map="auto")
    with pytest.raises(ValueError, match="device_map=auto: the comparison needs a model on one device"):
        reference_logits(vlm)


def test_one_model_in_both_layouts_has_equal_logits(tiny_folder: Path, converted: Path) -> None:
    original = load_llava_video(str(tiny_folder), LoadOptions(mm_newline_position="one_token"))
    other = load_llava_video(str(converted))
    assert other.newlines.position == "one_token" and other.pool.mode == "bilinear"
    assert (other.vision, other.llm, other.limit) == (original.vision, original.llm, original.limit)
    close(logits(other), logits(original))
    grid = LoadOptions(mm_newline_position="grid")
    close(logits(load_llava_video(str(converted), grid)), logits(load_llava_video(str(tiny_folder), grid)))


@pytest.mark.parametrize(
    "renamed",
    [
        [("vision_tower.", "vision_tower.vision_model.")],
        [
            ("vision_tower.", "model.vision_tower.vision_model."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
            ("image_newline", "model.image_newline"),
            ("language_model.lm_head", "lm_head"),
            ("language_model.model.", "model.language_model."),
        ],
    ],
    ids=["published", "in memory"],
)
def test_names_of_all_releases_are_read(converted: Path, tmp_path: Path, renamed: list[tuple[str, str]]) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "copy"))
    rename(folder, *renamed)
    close(logits(load_llava_video(str(folder))), logits(load_llava_video(str(converted))))


def test_a_missing_tensor_is_named_as_in_the_file(converted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "copy"))
    rename(folder, ("multi_modal_projector.linear_2.bias", "multi_modal_projector.linear_3.bias"))
    message = r"missing \(1\): multi_modal_projector.linear_2.bias; unexpected \(1\): multi_modal_projector.linear_3"
    with pytest.raises(CheckpointError, match=message):
        load_llava_video(str(folder))


def test_markers_of_visuals_are_never_answered(converted: Path) -> None:
    vlm = load_llava_video(str(converted))
    assert len(vlm.tokenizer) == 485
    assert vlm.network.llm.lm_head.weight.shape[0] == vlm.llm.vocabulary == 483
    assert max(vlm.chat.plain("an <image> and a <video>")) < 483


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy='default'"),
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer=\[-2, -1\]"),
        ({"text_config": {"model_type": "llama"}}, "text_config of .* is of type 'llama'; known: 'qwen2'"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act='relu'"),
        ({"text_config": {"use_sliding_window": True}}, "use_sliding_window=True; known: 'default' and False"),
        ({"text_config": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}}, "rope type 'linear'"),
    ],
)
def test_other_models_in_this_layout_are_refused(
    converted: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "copy"))
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_llava_video(str(folder))


def test_an_earlier_layer_of_the_tower_may_be_read(converted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "copy"))
    edit(folder, vision_feature_layer=-2)
    with pytest.raises(CheckpointError, match=r"unexpected \(16\): vision_tower\.encoder\.layers\.1\."):
        load_llava_video(str(folder))


def test_tied_embeddings_in_this_layout(tmp_path: Path) -> None:
    original = load_llava_video(str(write_tiny(tmp_path / "a", siglip=False, llm={"tie_word_embeddings": True})))
    transformers_model(original).save_pretrained(tmp_path / "b")
    original.tokenizer.save_pretrained(tmp_path / "b")
    other = load_llava_video(str(tmp_path / "b"), LoadOptions(mm_newline_position="grid"))
    close(logits(other), logits(original))


def test_differences_are_the_largest() -> None:
    check = Parity("x", torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.25]), 0.3)
    assert check.difference == 0.5 and not check.passed


def test_published_logits_are_those_behind_the_first_three_tokens(
    vlm: LlavaVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real numbers need real weights; here a model's own, from a whole prompt with a video in it."""
    prompt = vlm.assemble([vlm.encode(frames(2)).whole()], QUESTION)
    with torch.inference_mode():
        rows = vlm.network.llm(inputs_embeds=prompt.embeds[None]).logits[0, :3, :3]
    monkeypatch.setattr(reference, "PUBLISHED", {Path(vlm.name).name: rows.tolist()})
    _, check = reference_logits(vlm, frames(2))
    assert check.passed and check.ours.shape == (3, 3) and check.difference < 1e-4
    monkeypatch.setattr(reference, "PUBLISHED", {Path(vlm.name).name: (rows + 0.03).tolist()})
    assert not reference_logits(vlm, frames(2))[1].passed


@pytest.mark.weights
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_logits(name: str) -> None:
    """LMMS_KVTP_WEIGHTS is the folder that holds the checkpoint, or `lmms-lab` for the hub."""
    vlm = load_llava_video(f"{os.environ['LMMS_KVTP_WEIGHTS']}/{name}", LoadOptions(dtype="float16"))
    checks = reference_logits(vlm)
    assert len(checks) == 2
    assert all(check.passed for check in checks), verdict_lines(checks)
