"""The released checkpoints' layout and sizes, from their config.json alone; no weights are needed."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from lmms_kvtp.cost.flops import LLMShape, VisionShape
from lmms_kvtp.vlms.checkpoint.config import LlavaConfig, llm_shape, vision_shape
from lmms_kvtp.vlms.checkpoint.devices import Placement
from lmms_kvtp.vlms.checkpoint.load import check_layout, expected_shapes, load_network, read_config
from lmms_kvtp.vlms.checkpoint.network import build
from lmms_kvtp.vlms.checkpoint.original import ORIGINAL

REAL = {
    "architectures": ["LlavaQwenForCausalLM"],
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 1152,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_spatial_pool_mode": "bilinear",
    "mm_resampler_type": None,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": None,
    "vocab_size": 152064,
    "num_key_value_heads": 4,
}
OPTIONAL = ("mm_newline_position", "mm_patch_merge_type", "mm_spatial_pool_mode", "mm_resampler_type", "architectures")
SIZES = {
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
    "72B": {
        "hidden_size": 8192,
        "intermediate_size": 29568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}


def real_config(tmp_path: Path, size: str) -> LlavaConfig:
    (tmp_path / "config.json").write_text(json.dumps(REAL | SIZES[size]))
    return read_config(tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_the_layout_of_the_released_checkpoints(tmp_path: Path, size: str) -> None:
    """Key by key, from the sizes alone: nothing is allocated."""
    config = real_config(tmp_path, size)
    network = build(config, 151646, "sdpa")
    shapes = expected_shapes(network, {ORIGINAL.name(name): name for name in network.state_dict()}, 152064)
    width, mlp, layers = config.llm["hidden_size"], config.llm["intermediate_size"], config.llm["num_hidden_layers"]
    kv = width // config.llm["num_attention_heads"] * config.llm["num_key_value_heads"]
    expected = {"model.embed_tokens.weight": (152064, width), "lm_head.weight": (152064, width)}
    expected |= {"model.norm.weight": (width,), "model.image_newline": (width,)}
    expected |= {"model.mm_projector.0.weight": (width, 1152), "model.mm_projector.2.weight": (width, width)}
    expected |= {f"model.mm_projector.{index}.bias": (width,) for index in (0, 2)}
    for index in range(layers):
        layer = f"model.layers.{index}."
        expected |= {f"{layer}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
        for name, rows in (("q", width), ("k", kv), ("v", kv)):
            expected |= {f"{layer}self_attn.{name}_proj.weight": (rows, width)}
            expected |= {f"{layer}self_attn.{name}_proj.bias": (rows,)}
        expected |= {f"{layer}self_attn.o_proj.weight": (width, width), f"{layer}mlp.down_proj.weight": (width, mlp)}
        expected |= {f"{layer}mlp.{name}_proj.weight": (mlp, width) for name in ("gate", "up")}
    tower = "model.vision_tower.vision_tower.vision_model."
    expected |= {f"{tower}embeddings.patch_embedding.weight": (1152, 3, 14, 14)}
    expected |= {f"{tower}embeddings.patch_embedding.bias": (1152,)}
    expected |= {f"{tower}embeddings.position_embedding.weight": (729, 1152)}
    for index in range(26):
        layer = f"{tower}encoder.layers.{index}."
        expected |= {f"{layer}layer_norm{n}.{part}": (1152,) for n in (1, 2) for part in ("weight", "bias")}
        expected |= {f"{layer}self_attn.{n}_proj.weight": (1152, 1152) for n in ("q", "k", "v", "out")}
        expected |= {f"{layer}self_attn.{n}_proj.bias": (1152,) for n in ("q", "k", "v", "out")}
        expected |= {f"{layer}mlp.fc1.weight": (4304, 1152), f"{layer}mlp.fc1.bias": (4304,)}
        expected |= {f"{layer}mlp.fc2.weight": (1152, 4304), f"{layer}mlp.fc2.bias": (1152,)}
    assert shapes == expected
    check_layout(expected, shapes, set(), tmp_path)
    assert all(weight.is_meta for weight in network.parameters())


def test_shapes_of_the_released_checkpoints(tmp_path: Path) -> None:
    config = real_config(tmp_path, "7B")
    assert vision_shape(config) == VisionShape(384, 14, hidden=1152, intermediate=4304, layers=26, heads=16)
    assert llm_shape(config, 151646) == LLMShape(3584, 18944, 28, 28, kv_heads=4, head_dim=128, vocabulary=151646)
    assert (config.limit, config.pool_mode, config.newline_position) == (32768, "bilinear", "grid")
    assert config.vision["hidden_act"] == "gelu_pytorch_tanh" and config.vision["layer_norm_eps"] == 1e-6


def test_what_an_old_config_leaves_out(tmp_path: Path) -> None:
    silent = {key: value for key, value in (REAL | SIZES["7B"]).items() if key not in OPTIONAL}
    (tmp_path / "config.json").write_text(json.dumps(silent))
    config = read_config(tmp_path)
    assert (config.pool_mode, config.newline_position, config.merge_type) == ("bilinear", "one_token", "flat")
    assert config.eos_token_id is None and not config.llm["tie_word_embeddings"]


def write_sparse(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    """Shards of at most 5 GB with the headers of real ones, and nothing in them; returns their sizes in bytes."""
    shards: list[dict[str, int]] = [{}]
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        if sum(shards[-1].values()) + size > 5_000_000_000:
            shards.append({})
        shards[-1][name] = size
    where = {}
    for number, shard in enumerate(shards):
        file, header, end = folder / f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors", {}, 0
        for name, size in shard.items():
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [end, end + size]}
            end, where[name] = end + size, file.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(struct.pack("<Q", len(text)) + text)
        with file.open("r+b") as opened:
            opened.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return [sum(shard.values()) for shard in shards]


@pytest.mark.parametrize(
    ("size", "gigabytes", "files", "tensors"),
    [("7B", 16.1, 4, 763), pytest.param("72B", 146.4, 31, 1387, marks=pytest.mark.slow)],
)
def test_a_checkpoint_of_full_size_loads_onto_the_meta_device(
    tmp_path: Path, size: str, gigabytes: float, files: int, tensors: int
) -> None:
    """Through the loader itself, which names what is missing, left over or of another shape."""
    config = real_config(tmp_path, size)
    own = build(config, 151646, "sdpa")
    shapes = expected_shapes(own, {ORIGINAL.name(name): name for name in own.state_dict()}, 152064)
    shapes |= dict.fromkeys(ORIGINAL.unused, (1152,))
    shards = write_sparse(tmp_path, shapes)
    assert (round(sum(shards) / 1e9, 1), len(shards)) == (gigabytes, files)
    placement = Placement(torch.device("meta"), torch.bfloat16)
    network = load_network(tmp_path, config, 151646, "sdpa", placement)
    weights = network.state_dict()
    assert len(weights) == tensors == len(shapes) - 2
    assert {weight.dtype for weight in network.parameters()} == {torch.bfloat16}
    assert all(weight.is_meta for weight in network.parameters())
    assert weights["llm.lm_head.weight"].shape == (151646, config.llm["hidden_size"])
