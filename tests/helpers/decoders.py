"""Tiny language models, prompts for them, and a decoder loop written out: what hooks must agree with."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from lmms_kvtp.layer_pruning.base import Stage
from lmms_kvtp.types import NEWLINE, TEXT, VISION, Prompt

HIDDEN, HEADS, KEY_HEADS, LAYERS, VOCABULARY = 48, 6, 2, 5, 61


def build(attention="sdpa", layers=LAYERS):
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=44,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        initializer_range=0.4,
        max_position_embeddings=128,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    for name, weight in model.named_parameters():  # transformers starts biases at 0 and norms at 1: blind spots
        if weight.ndim == 1:
            weight.data = 0.4 * torch.randn_like(weight) + ("norm" in name)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompt_of(frames=(3, 2, 4), before=3, after=4, seed=1, newlines=True):
    """Text, frames of so many tokens with a newline each, text."""
    role, frame = [TEXT] * before, [-1] * before
    for index, count in enumerate(frames):
        role += [VISION] * count + [NEWLINE] * newlines
        frame += [index] * (count + newlines)
    role, frame = torch.tensor(role + [TEXT] * after), torch.tensor(frame + [-1] * after)
    return Prompt(torch.randn(len(role), HIDDEN, generator=torch.Generator().manual_seed(seed)), role, frame)


def fixed(layer, positions, compress=False, reads=None):
    """A stage that keeps the vision tokens at `positions` of the prompt, whatever the scores."""
    wanted = torch.tensor(positions)
    return Stage(layer, layer if reads is None else reads, lambda seen: torch.isin(seen.positions, wanted), compress)


def rms(x, norm):
    return x / (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight


def rope(heads, positions, theta):
    """Rotate pairs (i, i + d/2) of [n, d] by position * theta ** (-2i/d)."""
    half = heads.shape[-1] // 2
    angle = positions[:, None].float() * theta ** (-torch.arange(half) / half)
    a, b = heads[:, :half], heads[:, half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def theta_of(config):
    return config.rope_parameters["rope_theta"] if hasattr(config, "rope_parameters") else config.rope_theta


def attention(model, index, hidden, positions, past=None, rotated=True, causal=True):
    """Head by head: probabilities [H, n, m], the mixed values [n, H*d], and keys and values with their positions."""
    layer, d = model.model.layers[index].self_attn, model.config.hidden_size // model.config.num_attention_heads
    normed = rms(hidden, model.model.layers[index].input_layernorm)
    q, k, v = (projection(normed) for projection in (layer.q_proj, layer.k_proj, layer.v_proj))
    theta = theta_of(model.config)
    turn = (lambda heads: rope(heads, positions, theta)) if rotated else (lambda heads: heads)
    groups = [slice(g * d, (g + 1) * d) for g in range(model.config.num_key_value_heads)]
    keys, values = [turn(k[:, g]) for g in groups], [v[:, g] for g in groups]
    at = positions
    if past is not None:
        keys = [torch.cat([old, new]) for old, new in zip(past[0], keys, strict=True)]
        values = [torch.cat([old, new]) for old, new in zip(past[1], values, strict=True)]
        at = torch.cat([past[2], positions])
    probabilities, mixed = [], []
    for h in range(model.config.num_attention_heads):
        g = h // (model.config.num_attention_heads // model.config.num_key_value_heads)
        scores = turn(q[:, h * d : (h + 1) * d]) @ keys[g].T / d**0.5
        if causal:
            scores = scores.masked_fill(at[None] > positions[:, None], -torch.inf)
        probabilities.append(scores.softmax(-1))
        mixed.append(probabilities[-1] @ values[g])
    return torch.stack(probabilities), torch.cat(mixed, dim=-1), (keys, values, at)


def run_layer(model, index, hidden, positions, past=None):
    layer = model.model.layers[index]
    _, mixed, cache = attention(model, index, hidden, positions, past)
    hidden = hidden + layer.self_attn.o_proj(mixed)
    normed, mlp = rms(hidden, layer.post_attention_layernorm), layer.mlp
    return hidden + mlp.down_proj(F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed)), cache


@torch.no_grad()
def run(model, prompt, processed, tokens=(), cached=None, renumber=False):
    """Logits of the prompt [K, V] and after each of `tokens` [n, V], when layer i sees the positions processed[i].

    Decoding attends to cached[i], which is processed[i] where not given. renumber: every layer counts positions anew.
    """
    hidden, at, caches, inputs = prompt.embeds, torch.arange(prompt.length), [], []
    for index, kept in enumerate(processed):
        inputs.append((hidden, at))  # before anything is dropped here
        keep = torch.isin(at, torch.as_tensor(kept))
        hidden, at = hidden[keep], at[keep]
        hidden, cache = run_layer(model, index, hidden, torch.arange(len(at)) if renumber else at)
        caches.append(cache)
    for index, kept in enumerate(cached or processed):
        keys, values, held = caches[index]
        keep = torch.isin(held, torch.as_tensor(kept)) | renumber
        caches[index] = ([k[keep] for k in keys], [v[keep] for v in values], held[keep])
    logits, steps = model.lm_head(rms(hidden, model.model.norm)), []
    for step, token in enumerate(tokens):
        hidden = model.model.embed_tokens.weight[token][None]
        for index in range(len(processed)):
            place = torch.tensor([(len(processed[index]) if renumber else prompt.length) + step])
            hidden, caches[index] = run_layer(model, index, hidden, place, caches[index])
        steps.append(model.lm_head(rms(hidden, model.model.norm))[0])
    return SimpleNamespace(logits=logits, steps=torch.stack(steps) if steps else None, inputs=inputs)
