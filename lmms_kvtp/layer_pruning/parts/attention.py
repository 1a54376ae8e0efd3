"""Attention of a few query rows, recomputed from a layer's own projections, so that SDPA and flash attention stay on.

For decoder layers like those of Llama, Qwen2 and Qwen3: `input_layernorm`, then `q_proj` and `k_proj` of `self_attn`,
and `q_norm` and `k_norm` over each head where the layer has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape, selection_flops
from lmms_kvtp.layer_pruning.base import LayerPruner, StageInput
from lmms_kvtp.layer_pruning.parts.cut import take


@dataclass(frozen=True)
class LastPositionPruner(LayerPruner):
    """Drops vision tokens once, by the attention of the last position in the layer before `layer`."""

    layer: int = 2
    """The first layer, counted from 0, without the dropped tokens; attention is that of the one before."""
    ratio: float = 0.5
    """Vision tokens kept from `layer` on over those that entered, rounded; one is left at least."""

    def __post_init__(self) -> None:
        """Refuse a layer without one before it, and a ratio outside (0, 1]."""
        name = type(self).__name__.removesuffix("Layers").lower()
        if self.layer < 1:
            raise ValueError(f"{name} layer={self.layer} has no layer before it to take attention from; at least 1")
        check_ratio(f"{name} ratio", self.ratio)

    def kept(self, entered: int) -> tuple[tuple[int, int], ...]:
        """Tell the one step."""
        return ((self.layer, max(1, round(self.ratio * entered))),)

    def select(self, inputs: StageInput) -> Bool[Tensor, " K"]:
        """Mark what the last position attends to most."""
        [(_, count)] = self.kept(inputs.entered)
        return highest(last_query_attention(inputs), inputs.vision, count)

    def flops(self, shape: LLMShape, layer_lengths: Sequence[int], role: Int[Tensor, " L"]) -> int:
        """Count the attention of the last position in the layer before."""
        return selection_flops(shape, layer_lengths[self.layer - 1], rows=1)


def last_query_attention(inputs: StageInput) -> Float[Tensor, " K"]:
    """Average over the query heads the attention that the last position pays to each position in this layer."""
    rows = torch.tensor([len(inputs.hidden) - 1], device=inputs.hidden.device)
    query, keys = _project(inputs, rows)
    cos, sin = inputs.rotary
    return _attend(_rotate(query, cos[rows], sin[rows]), _rotate(keys, cos, sin)).mean(dim=(0, 1, 2))


def unrotated_attention(inputs: StageInput, rows: Int[Tensor, " R"]) -> Float[Tensor, " K"]:
    """Find the most attention that any of `rows` pays to each position in any head, without rotary positions or mask.

    Rows are taken as many at a time as one head's width, which makes about the memory of one hidden state.
    """
    queries, keys = _project(inputs, rows)
    most = torch.zeros(len(inputs.hidden), device=keys.device)
    for chunk in torch.split(queries, queries.shape[-1], dim=2):
        most = torch.maximum(most, _attend(chunk, keys).amax(dim=(0, 1, 2)))
    return most


def highest(scores: Float[Tensor, " K"], among: Bool[Tensor, " K"], count: int) -> Bool[Tensor, " K"]:
    """Mark the `count` highest scores of those `among`; ties go to the earlier position. ValueError for NaN."""
    check_scores(scores)
    order = scores.masked_fill(~among, -torch.inf).argsort(descending=True, stable=True)
    marks = torch.zeros_like(among)
    marks[order[:count]] = True
    return marks & among


def check_scores(scores: Float[Tensor, " K"]) -> None:
    """Refuse scores that are NaN, by ValueError."""
    if bool(torch.isnan(scores).any()):
        raise ValueError("attention scores hold NaN; look at the vision tokens and at the model's dtype")


def check_ratio(name: str, ratio: float) -> None:
    """Refuse a ratio outside (0, 1], by ValueError."""
    if not 0 < ratio <= 1:
        raise ValueError(f"{name}={ratio} is outside (0, 1]; it is the fraction of vision tokens kept")


def _project(inputs: StageInput, rows: Int[Tensor, " R"]) -> tuple[Float[Tensor, "g q R d"], Float[Tensor, "g 1 K d"]]:
    """Project queries of `rows` and keys of all positions: g key heads, each with the q query heads that share it."""
    layer: Any = inputs.layer
    attention, home = layer.self_attn, inputs.hidden.device
    normed = layer.input_layernorm(inputs.hidden)  # on another device where the layer is the first one there
    keys = attention.k_proj(normed).to(home).unflatten(-1, (-1, 1, attention.head_dim))  # [K, g, 1, d]
    shape = (keys.shape[1], -1, attention.head_dim)
    queries = attention.q_proj(take(normed, rows, 0)).to(home).unflatten(-1, shape)  # [R, g, q, d]
    norms = dict(attention.named_children())
    if "q_norm" in norms:  # Qwen3 normalises each head before it turns it
        queries, keys = norms["q_norm"](queries).to(home), norms["k_norm"](keys).to(home)
    return queries.permute(1, 2, 0, 3), keys.permute(1, 2, 0, 3)


def _rotate(heads: Float[Tensor, "g q R d"], cos: Float[Tensor, "R d"], sin: Float[Tensor, "R d"]) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def _attend(queries: Float[Tensor, "g q R d"], keys: Float[Tensor, "g 1 K d"]) -> Float[Tensor, "g q R K"]:
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return torch.softmax(scores, dim=-1, dtype=torch.float32)
