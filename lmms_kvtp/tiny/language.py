"""The language model's pass over videos and several questions on each, on transformers' own Qwen2 modules.

It equals transformers' forward under the block mask, and skips what training does not need: the upper triangle
of the video's attention, and the video's last layer.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer, apply_rotary_pos_emb

from lmms_kvtp.tiny.packing import IGNORE, Packed

Rotary = tuple[Tensor, Tensor]


def answer_logits(
    llm: Qwen2ForCausalLM, video: Float[Tensor, "b C D"], text: Packed
) -> tuple[Float[Tensor, "m V"], Int[Tensor, " m"]]:
    """Logits at every position with a target, and those targets; `video` includes the prompt before it."""
    backbone = llm.model
    words = backbone.embed_tokens(text.ids)
    length, rows = video.shape[1], len(words) // len(video)
    before = torch.arange(length, device=video.device)[None]
    rotary = backbone.rotary_emb(video, before), backbone.rotary_emb(words, text.positions + length)
    whole = torch.ones(*text.visible.shape[:3], length, dtype=torch.bool, device=video.device)
    visible = torch.cat([whole, text.visible], dim=-1)
    for index, module in enumerate(backbone.layers):
        layer, last = cast(Qwen2DecoderLayer, module), index == len(backbone.layers) - 1
        attention = layer.self_attn
        query, key, value = _project(attention, layer.input_layernorm(video), rotary[0])
        asked, keys, values = _project(attention, layer.input_layernorm(words), rotary[1])
        keys = torch.cat([key.repeat_interleave(rows, 0), keys], dim=2)
        values = torch.cat([value.repeat_interleave(rows, 0), values], dim=2)
        words = _finish(layer, words, _attend(asked, keys, values, visible))
        if not last:
            video = _finish(layer, video, _attend(query, key, value, None))
    wanted = text.targets != IGNORE
    logits: Tensor = llm.lm_head(backbone.norm(words[wanted]))
    return logits, text.targets[wanted]


def _project(attention: Qwen2Attention, normed: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    def heads(projection: nn.Module) -> Tensor:
        split: Tensor = projection(normed).unflatten(-1, (-1, attention.head_dim))
        return split.transpose(1, 2).float()

    query, key = heads(attention.q_proj), heads(attention.k_proj)
    groups = attention.num_key_value_groups
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    return query, key.repeat_interleave(groups, 1), heads(attention.v_proj).repeat_interleave(groups, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    # float32: the bfloat16 backward of attention is slow on CPU
    with torch.autocast(query.device.type, enabled=False):
        mixed = F.scaled_dot_product_attention(query, key, value, visible, is_causal=visible is None)
    return mixed.transpose(1, 2).flatten(2)


def _finish(layer: Qwen2DecoderLayer, hidden: Tensor, mixed: Tensor) -> Tensor:
    hidden = hidden + layer.self_attn.o_proj(mixed)
    update: Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden + update
