"""What is written is what a model had, and what every version of transformers reads."""

import json
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast, SiglipModel

from lmms_kvtp.encoders.parts.text_side import save_tokenizer
from lmms_kvtp.vlms.checkpoint.network import VisionTower
from lmms_kvtp.vlms.llava_video import load_llava_video


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("written"))


def test_the_tower_is_that_of_the_image_text_model_without_its_last_layer(written: Path) -> None:
    vlm = load_llava_video(str(written))
    siglip = SiglipModel.from_pretrained(written / "siglip")
    pixels = torch.rand(2, 3, 66, 66)
    with torch.inference_mode():
        expected = siglip.vision_model.embeddings(pixels)
        for layer in siglip.vision_model.encoder.layers[:-1]:
            expected = layer(expected, None)
        torch.testing.assert_close(vlm.network.tower(pixels), expected, atol=1e-5, rtol=1e-5)
        assert VisionTower(siglip.vision_model)(pixels).sub(expected).abs().max() > 0.1
    stored = load_file(written / "model.safetensors")
    assert not any("encoder.layers.2." in name or ".head." in name for name in stored)


def test_weights_are_written_in_the_dtype_asked_for(tmp_path: Path) -> None:
    stored = load_file(write_tiny(tmp_path, siglip=False, dtype=torch.bfloat16) / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}


def test_fields_of_the_config_can_be_set(tmp_path: Path) -> None:
    own = {"mm_spatial_pool_mode": "max", "mm_newline_position": "frame", "mm_patch_merge_type": "spatial"}
    folder = write_tiny(tmp_path, siglip=False, fields=own, llm={"rope_theta": 5e5})
    config = json.loads((folder / "config.json").read_text())
    assert config["mm_spatial_pool_mode"] == "max" and config["rope_theta"] == 5e5
    assert config["mm_hidden_size"] == 24 and config["vocab_size"] == 500
    vlm = load_llava_video(str(folder))
    assert vlm.pool.mode == "max"
    assert (vlm.newlines.position, vlm.newlines.policy, vlm.newlines.merge_type) == ("frame", "auto", "spatial")
    rope = vlm.network.llm.model.rotary_emb.inv_freq
    torch.testing.assert_close(rope, 5e5 ** -(torch.arange(0, 8, 2) / 8))


def test_tokenizers_are_written_under_names_that_all_versions_know(tmp_path: Path, written: Path) -> None:
    plain = PreTrainedTokenizerFast(
        tokenizer_file=str(written / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    save_tokenizer(tmp_path, plain)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(settings.get("extra_special_tokens"), list)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("a<|im_start|>b").input_ids == plain("a<|im_start|>b").input_ids
    assert "<|im_start|>" in again.all_special_tokens
