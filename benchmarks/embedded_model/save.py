"""The writer of checkpoints in the original LLaVA-Video layout, such as the embedded model's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig

from lmms_kvtp.encoders.parts.text_side import save_tokenizer
from lmms_kvtp.files import write_json
from lmms_kvtp.vlms.checkpoint.config import LLM_FIELDS, VISION, read_json
from lmms_kvtp.vlms.checkpoint.network import HEAD, Network, VisionTower
from lmms_kvtp.vlms.checkpoint.original import ORIGINAL, RELEASED


def save_original(
    folder: Path,
    *,
    llm: Qwen2ForCausalLM,
    tower: nn.Module,
    vision: SiglipVisionConfig,
    projector: nn.Sequential,
    newline: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    fields: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    shard_size: int | str = "5GB",
) -> None:
    """Write config.json, vision_config.json, generation_config.json, the weights in shards, and the tokenizer.

    Args:
        folder: made if it is not there; files in it are overwritten.
        llm: a language model with as many rows of vocabulary as the checkpoint is to have.
        tower: a SigLIP vision model, with or without its last layer and its head; these two are not written.
        vision: config of the tower with all layers.
        projector: linear, GELU, linear.
        newline: the learned embedding.
        tokenizer: with `<|im_start|>` and `<|im_end|>`.
        fields: fields of config.json that replace or join those of the released checkpoints.
        generation: content of generation_config.json; None writes no such file.
        dtype: number type of the weights in the files.
        shard_size: largest weights file, in bytes or as text like "5GB".
    """
    own = _llm_fields(llm.config) | {
        "mm_hidden_size": vision.hidden_size,
        "tokenizer_model_max_length": tokenizer.model_max_length,
    }
    write_json(folder / "config.json", read_json(RELEASED) | own | dict(fields or {}))
    write_json(folder / "vision_config.json", {name: vision.to_dict()[name] for name in VISION})
    if generation is not None:
        write_json(folder / "generation_config.json", generation)
    save_tokenizer(folder, tokenizer)
    weights = _weights(Network(VisionTower(tower), projector, newline, llm), tower, vision.num_hidden_layers - 1)
    if llm.config.tie_word_embeddings:
        del weights[ORIGINAL.name(HEAD)]
    save_torch_state_dict(
        {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()},
        folder,
        max_shard_size=shard_size,
    )


def _weights(network: Network, tower: nn.Module, layers: int) -> dict[str, Tensor]:
    own = {name: weight for name, weight in network.state_dict().items() if _layer(name) < layers}
    norm = {name: weight for name, weight in tower.state_dict().items() if "post_layernorm" in name}
    unused = {ORIGINAL.prefixes["tower."] + name.removeprefix("vision_model."): weight for name, weight in norm.items()}
    return {ORIGINAL.name(name): weight for name, weight in own.items()} | unused


def _layer(name: str) -> int:
    """Read the number of the tower's layer that a tensor belongs to; -1 for others."""
    behind = name.partition("tower.encoder.layers.")[2]
    return int(behind.split(".")[0]) if behind else -1


def _llm_fields(config: Qwen2Config) -> dict[str, Any]:
    values = config.to_dict()
    rope = cast(Mapping[str, Any], values.get("rope_parameters") or values)  # transformers < 5 has rope_theta alone
    others = ("bos_token_id", "eos_token_id", "tie_word_embeddings", "hidden_act")
    return {name: values.get(name) for name in LLM_FIELDS + others} | {"rope_theta": rope["rope_theta"]}
