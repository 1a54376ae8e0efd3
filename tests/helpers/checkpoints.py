"""Writes tiny random checkpoints in LLaVA-Video's original layout, for tests that need a whole model.

Weights are large (standard deviation 0.4), so that a planted bug changes answers; no two sizes are equal.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AddedToken,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from benchmarks.embedded_model.save import save_original
from lmms_kvtp.encoders.parts.text_side import save_tokenizer

GOLDEN = Path(__file__).parents[1] / "goldens" / "llava_tiny9"
"""Its tokenizer is used: 483 entries."""
SPREAD = 0.4
VISION = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
IMAGE_SIZE, PATCH_SIZE = 66, 7
"""9 x 9 patches and three pixels left over, as with 384 / 14."""
LLM = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "max_position_embeddings": 4096,
    "rope_theta": 1e6,
    "initializer_range": SPREAD,
    "eos_token_id": 482,
}


def write_tiny(
    folder: Path,
    seed: int = 0,
    siglip: bool = True,
    fields: Mapping[str, Any] | None = None,
    llm: Mapping[str, Any] | None = None,
    shard_size: int | str = "5GB",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a checkpoint, with an image-text model in its folder `siglip` if asked for.

    Args:
        folder: made if it is not there.
        seed: of all weights.
        siglip: also write the image-text model whose tower the checkpoint has.
        fields: of config.json, over the usual ones.
        llm: fields of Qwen2Config, over the usual ones.
        shard_size: bytes of a weights file.
        dtype: of the weights in the files.
    """
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN, config=Qwen2Config())
    encoder = SiglipModel(_siglip_config(len(tokenizer), tokenizer.pad_token_id)).eval()
    text = Qwen2Config(**LLM | dict(llm or {}))
    language, vision = Qwen2ForCausalLM(text).eval(), encoder.config.vision_config
    inner, outer = vision.hidden_size, text.hidden_size
    projector = nn.Sequential(nn.Linear(inner, outer), nn.GELU(), nn.Linear(outer, outer))
    for module in (encoder, projector):
        _spread(module)
    ends = {"eos_token_id": [482, 480], "pad_token_id": 480, "repetition_penalty": 1.05}
    save_original(
        folder,
        llm=language,
        tower=encoder.vision_model,
        vision=vision,
        projector=projector,
        newline=torch.randn(outer),
        tokenizer=tokenizer,
        fields=fields,
        generation=ends,
        dtype=dtype,
        shard_size=shard_size,
    )
    if siglip:
        encoder.save_pretrained(folder / "siglip")
        tokenizer.model_max_length = encoder.config.text_config.max_position_embeddings
        save_tokenizer(folder / "siglip", tokenizer)
    return folder


def write_answering(folder: Path, answer: str) -> Path:
    """Write a checkpoint that answers everything with `answer`, one token of its own: its layers change nothing."""
    write_tiny(folder, siglip=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(answer, normalized=False)])
    tokenizer.save_pretrained(folder)
    token, line = tokenizer.convert_tokens_to_ids(answer), tokenizer("\n").input_ids[-1]
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight", "lm_head.weight")):
            tensor.zero_()
    embed, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    head[token], head[LLM["eos_token_id"]] = 9 * embed[line], 9 * embed[token]  # a prompt ends with a line break
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _spread(module: nn.Module) -> None:
    """Random weights everywhere, biases and normalizations too."""
    for name, parameter in module.named_parameters():
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            nn.init.normal_(parameter, 1.0, 0.1)
        elif "logit" not in name:
            nn.init.normal_(parameter, 0.0, SPREAD if parameter.dim() < 3 else 0.1)


def _siglip_config(vocabulary: int, pad: int) -> SiglipConfig:
    vision = SiglipVisionConfig(image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, **VISION)
    text = SiglipTextConfig(
        **VISION,
        vocab_size=vocabulary,
        max_position_embeddings=32,
        projection_size=24,
        pad_token_id=pad,
        bos_token_id=pad,
        eos_token_id=pad,
    )
    return SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
