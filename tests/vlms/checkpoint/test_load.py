"""Loading: every tensor is accounted for by name, and a folder that is no such checkpoint is told apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import GOLDEN, write_tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmms_kvtp.vlms.checkpoint.config import CheckpointError
from lmms_kvtp.vlms.checkpoint.load import family_named, find_folder, load_tokenizer
from lmms_kvtp.vlms.checkpoint.original import ORIGINAL
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

NORM = "model.vision_tower.vision_tower.vision_model.post_layernorm.weight"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of `tiny_folder`, in one file."""
    return write_tiny(tmp_path_factory.mktemp("single"), siglip=False)


@pytest.fixture
def folder(single: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(single, tmp_path / "copy"))


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    values = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_llava_video(str(folder))


def test_shards_and_one_file_give_the_same_weights(single: Path, tiny_folder: Path, vlm: LlavaVideo) -> None:
    assert len(list(tiny_folder.glob("*.safetensors"))) > 3
    one = load_llava_video(str(single)).network.state_dict()
    stored = load_file(single / "model.safetensors")
    for name, weight in vlm.network.state_dict().items():
        assert torch.equal(weight, one[name]), name
        assert torch.equal(weight, stored[ORIGINAL.name(name)][: len(weight)]), name
    unread = set(stored) - {ORIGINAL.name(name) for name in one}
    assert unread == {NORM, NORM.replace("weight", "bias")}


def test_the_vocabulary_is_that_of_the_tokenizer(vlm: LlavaVideo) -> None:
    llm = vlm.network.llm
    assert len(vlm.tokenizer) == 483
    assert llm.lm_head.weight.shape == llm.model.embed_tokens.weight.shape == (483, 48)
    assert llm.config.vocab_size == 483


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_all_weights_have_the_dtype_asked_for(single: Path, dtype: str) -> None:
    network = load_llava_video(str(single), LoadOptions(dtype=dtype)).network
    assert {str(weight.dtype) for weight in network.state_dict().values()} == {f"torch.{dtype}"}
    assert not any(weight.requires_grad or weight.is_meta for weight in network.parameters())
    assert network.llm.model.rotary_emb.inv_freq.dtype == torch.float32


def test_missing_unexpected_and_misshaped_tensors_are_named(folder: Path) -> None:
    def spoil(weights: dict[str, Tensor]) -> None:
        weights["model.layers.1.self_attn.q_proj.bais"] = weights.pop("model.layers.1.self_attn.q_proj.bias")
        weights["model.image_newline"] = torch.zeros(47)

    edit_weights(folder, spoil)
    refused(
        folder,
        r"missing \(1\): model\.layers\.1\.self_attn\.q_proj\.bias; "
        r"unexpected \(1\): model\.layers\.1\.self_attn\.q_proj\.bais; "
        r"misshaped \(1\): model\.image_newline \(47,\) instead of \(48,\)",
    )


def test_long_lists_of_tensors_are_counted(folder: Path) -> None:
    edit(folder, num_hidden_layers=3)
    refused(folder, r"unexpected \(12\): model\.layers\.3\.input_layernorm\.weight, .* and 6 more")


def test_the_unused_normalisation_may_be_absent(folder: Path) -> None:
    edit_weights(folder, lambda weights: [weights.pop(NORM.replace("weight", kind)) for kind in ("weight", "bias")])
    assert load_llava_video(str(folder))


def test_a_tensor_of_the_towers_last_layer_is_unexpected(folder: Path) -> None:
    stem = NORM.split("post_layernorm")[0] + "encoder.layers."
    name = f"{stem}2.layer_norm1.bias"
    edit_weights(folder, lambda weights: weights.update({name: weights[f"{stem}1.layer_norm1.bias"].clone()}))
    refused(folder, rf"unexpected \(1\): {name}")


def test_missing_shards_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    shards = sorted(copy.glob("*.safetensors"))
    shards[1].unlink()
    refused(copy, rf"lacks 1 of {len(shards)} shards of model\.safetensors\.index\.json: {shards[1].name}")


def test_a_tensor_that_the_index_promises_and_no_shard_has_is_missing(tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    shard = sorted(copy.glob("*.safetensors"))[0]
    weights = load_file(shard)
    gone = sorted(weights)[0]
    del weights[gone]
    save_file(weights, shard)
    refused(copy, rf"missing \(1\): {gone}")


def test_a_truncated_file_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    refused(folder, r"model\.safetensors cannot be read")


def test_without_weights_there_is_no_checkpoint(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, r"neither model\.safetensors\.index\.json nor model\.safetensors, found .*config\.json")


def test_other_folders_and_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, r"has no config\.json, found notes\.txt; wanted a LLaVA-Video or LLaVA-OneVision checkpoint")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"found nothing")
    refused(tmp_path / "notes.txt", r"is a file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": {}, "model_type": "llava_next_video"}, r"of another family, model_type 'llava_next_video'"),
        ({"mm_projector_type": None, "mm_hidden_size": None}, r"lacks mm_projector_type, mm_hidden_size; wanted"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, r"LlavaLlamaForCausalLM.*is of another family"),
        ({"rope_theta": None}, r"lacks rope_theta of the language model"),
        ({"mm_projector_type": "linear"}, r"mm_projector_type='linear'.*not supported; known: 'mlp2x_gelu'"),
        ({"mm_resampler_type": "perceiver"}, r"mm_resampler_type='perceiver'"),
        ({"add_faster_video": True}, r"add_faster_video=True"),
        ({"mm_hidden_size": 25}, r"mm_hidden_size=25 .* tower's width is 24"),
        ({"vocab_size": 480}, r"the tokenizer of .* has 483 entries, config\.json says 480"),
    ],
)
def test_configs_of_other_models_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    refused(folder, message)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("mm_spatial_pool_mode", "unknown pooling 'cubic'; this model family has bilinear, average, max"),
        ("mm_newline_position", "unknown newline position 'cubic'"),
        ("mm_patch_merge_type", "unknown newline merge_type 'cubic'"),
    ],
)
def test_unknown_pools_and_newlines_are_refused_by_name(folder: Path, field: str, message: str) -> None:
    edit(folder, **{field: "cubic"})
    with pytest.raises(ValueError, match=message):
        load_llava_video(str(folder))


def test_an_unknown_tower_needs_its_sizes(folder: Path) -> None:
    (folder / "vision_config.json").unlink()
    edit(folder, mm_vision_tower="openai/clip-vit-large-patch14-336")
    refused(folder, r"mm_vision_tower='openai/clip-vit-large-patch14-336'.*is unknown, known is siglip-so400m")


def test_broken_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": ')
    refused(folder, r"config\.json is not JSON")
    (folder / "config.json").write_text("[1]")
    refused(folder, r"config\.json holds a list, wanted a dict")


@pytest.mark.parametrize("model_type", ["llava", "llava_qwen", "something_new", None])
def test_the_model_type_does_not_matter(folder: Path, model_type: str | None) -> None:
    edit(folder, model_type=model_type)
    assert load_llava_video(str(folder)).limit == 4096


def test_a_tokenizer_without_chat_markers_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["content"] = token["content"].replace("<|im_end|>", "<|end|>")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(config.replace("<|im_end|>", "<|end|>"))
    refused(folder, r"the tokenizer of .* lacks <\|im_end\|>")


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    for file in folder.glob("*vocab*"):
        file.unlink()
    refused(folder, r"copy has no tokenizer that can be read: |the tokenizer of .*copy lacks <")  # 4.57, and 5


def test_tied_embeddings_serve_as_head(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, siglip=False, llm={"tie_word_embeddings": True})
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    llm = load_llava_video(str(folder)).network.llm
    assert llm.lm_head.weight is llm.model.embed_tokens.weight
    assert llm.lm_head.weight.shape == (483, 48)


def test_a_model_of_the_hub_is_found_by_name_and_revision(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache as the hub's client leaves it, read without network."""
    repository, commit = tmp_path / "models--someone--tiny-video", "c" * 40
    shutil.copytree(tiny_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_folder("someone/tiny-video", "v1") == repository / "snapshots" / commit
    with pytest.raises(CheckpointError, match=r"'someone/tiny-video' is no folder here.*at revision v2"):
        find_folder("someone/tiny-video", "v2")
    with pytest.raises(CheckpointError, match="'not/a/name/of/the/hub' is no folder here"):
        find_folder("not/a/name/of/the/hub")


def test_the_golden_tokenizer_of_the_reference_loads() -> None:
    assert len(load_tokenizer(GOLDEN)) == 483


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 65536}, "num_hidden_layers=65536, wanted a number up to 1000"),
        ({"hidden_size": -1}, "hidden_size=-1"),
        ({"num_attention_heads": "x"}, "no checkpoint that can be read"),
        ({"vocab_size": []}, "no checkpoint that can be read"),
        ({"architectures": 1}, "no checkpoint that can be read"),
        ({"mm_spatial_pool_mode": "x"}, "no checkpoint that can be read: ValueError: unknown pooling 'x'"),
    ],
)
def test_odd_values_in_a_config_are_one_error_that_names_the_folder(folder, changes, message):
    edit(folder, **changes)
    refused(folder, rf"{folder}.*({message})")


@pytest.mark.parametrize("weight_map", [None, 7, [1], {"a": 1}, {"a": "../x.safetensors"}, {"a": None, "b": "x"}])
def test_an_odd_index_of_shards_is_one_error_that_names_the_folder(folder, weight_map):
    shutil.copy(folder / "model.safetensors", folder.parent / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, str(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, '{"model": {"type": 3}}', "\x00\xff"])
def test_a_broken_file_is_one_error_that_names_the_folder(folder, name, text):
    (folder / name).write_bytes(text.encode("latin-1"))
    if name in ("tokenizer_config.json", "generation_config.json") and text.startswith("{"):
        return  # which is sound
    refused(folder, str(folder))


@pytest.mark.parametrize("name", ["x" * 300, "~nobody_of_that_name/x", "a\0b"])
def test_a_name_that_can_be_no_folder_is_refused(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="is no folder here"):
        find_folder(name)
    assert family_named(name, None) is None


def test_a_revision_that_can_be_none_is_refused():
    with pytest.raises(CheckpointError, match=r"revision=x{40}\.\.\. is longer than the name of a branch"):
        find_folder("somebody/model", "x" * 100_000)
