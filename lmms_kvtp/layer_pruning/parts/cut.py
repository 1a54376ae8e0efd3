"""Takes positions out of what transformers 4.57 and 5 pass to a decoder layer, and out of its caches."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

Inputs = dict[str, Any]


def take(source: Tensor, entries: Int[Tensor, " K"], dim: int) -> Tensor:
    """Take entries along one axis, also where layers are spread over devices."""
    return source.index_select(dim, entries.to(source.device))


def cut_inputs(inputs: Inputs, kept: Int[Tensor, " K"], length: int) -> Inputs:
    """Leave only the places `kept` of a prompt of `length` in a layer's keyword arguments.

    Position ids have no gaps: a layer turns by the embeddings, and flash attention takes gaps for packed sequences.
    """
    cos, sin = inputs["position_embeddings"]
    cut = inputs | {"position_embeddings": (take(cos, kept, -2), take(sin, kept, -2))}
    if cut.get("position_ids") is not None:
        cut["position_ids"] = cut["position_ids"][..., : len(kept)]
    if cut.get("cache_position") is not None:  # transformers < 5
        cut["cache_position"] = take(cut["cache_position"], kept, -1)
    mask = _mask(inputs, length)
    if mask is not None:
        keys = take(mask, kept, -1)
        cut["attention_mask"] = take(keys, kept, -2) if mask.ndim == 4 else keys
    return cut


def cut_keys(inputs: Inputs, first: Int[Tensor, " F"], own: Int[Tensor, " K"], past: int, new: int) -> Inputs:
    """Fit the mask of a decoding step, whose columns are the cache of the first layer, to the cache of another.

    `first` are the prompt positions in the first layer's cache, `own` those in this one, which has `past` entries with
    what was decoded; `new` is the number of positions of this step.
    """
    decoded = past - len(own) + new
    mask = _mask(inputs, len(first) + decoded)
    if mask is None or len(own) == len(first):
        return inputs
    prompt = torch.searchsorted(first, own)
    answer = torch.arange(len(first), mask.shape[-1], device=prompt.device)
    return inputs | {"attention_mask": take(mask, torch.cat([prompt, answer]), -1)}


def cut_cache(cache: Any, layer: int, entries: Int[Tensor, " K"]) -> None:
    """Leave only some entries in one layer of a cache of transformers."""
    held = cache.layers[layer]
    held.keys, held.values = take(held.keys, entries, -2), take(held.values, entries, -2)


def cache_in(inputs: Inputs) -> Any:
    """Find the cache among a layer's keyword arguments, if there is one."""
    return inputs.get("cache", inputs.get("past_key_values"))  # transformers < 5.24 has the latter


def joined_axes(layer: Any, turns: Tensor) -> Tensor:
    """Join cosines or sines [A, B, K, d], of which a layer takes sections by axis (transformers < 5), to [B, K, d]."""
    if turns.ndim == 3:
        return turns
    parts = torch.split(turns, layer.self_attn.rope_scaling["mrope_section"] * 2, dim=-1)
    return torch.cat([part[number % len(turns)] for number, part in enumerate(parts)], dim=-1)


def _mask(inputs: Inputs, keys: int) -> Tensor | None:
    """Read the mask, if there is one: [1, keys] with flash attention, [1, 1, queries, keys] otherwise.

    ValueError where it is of another kind, or made for another number of keys.
    """
    mask = inputs.get("attention_mask")
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ValueError(f"cannot cut a {type(mask).__name__}; layer pruning runs with eager, sdpa or flash attention")
    if mask.shape[-1] != keys:
        raise ValueError(
            f"the attention mask has {mask.shape[-1]} keys, the cache {keys}; layer pruning wants a dynamic cache: "
            "leave cache_implementation alone and switch sliding windows off"
        )
    return mask
