"""Operations of the towers and the language model, in closed form from shapes and lengths.

Convention: 2 operations per multiply-add, attention over the full n x n square (as `torch.utils.flop_counter` counts
eager attention, also under a causal mask), matrix products and convolutions only: normalisations, activations,
softmax and look-ups are left out, together under 1 % at the sizes of LLaVA-Video-7B. The tests hold every function to
the counter's figure exactly. Published figures differ by convention: docs/costs.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class VisionShape:
    """Sizes of a vision transformer, from its config."""

    image_size: int
    """Pixels of a side."""
    patch_size: int
    hidden: int
    intermediate: int
    layers: int
    """Layers that run."""
    heads: int

    @property
    def patches(self) -> int:
        """Patches of a frame; pixels that fill no whole patch are dropped."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class LLMShape:
    """Sizes of a decoder-only language model with grouped queries and a gated MLP, from its config."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


def vision_flops(shape: VisionShape, frames: int) -> int:
    """Patch embedding and transformer layers over `frames` frames.

    Per frame of P patches, width d, MLP m: 2 P 3 p^2 d for the patch convolution; per layer 4 projections 8 P d^2,
    scores and mixing 4 P^2 d, MLP 4 P d m.
    """
    p, d, m = shape.patches, shape.hidden, shape.intermediate
    embedding = 2 * p * 3 * shape.patch_size**2 * d
    layer = 8 * p * d * d + 4 * p * p * d + 4 * p * d * m
    return frames * (embedding + shape.layers * layer)


def pooling_head_flops(shape: VisionShape, frames: int) -> int:
    """SigLIP's attention pooling: one probe attends to all patches, then an MLP on the pooled vector.

    Keys and values of P patches 4 P d^2, query and output 4 d^2, scores and mixing 4 P d, MLP 4 d m.
    """
    p, d, m = shape.patches, shape.hidden, shape.intermediate
    return frames * (4 * p * d * d + 4 * d * d + 4 * p * d + 4 * d * m)


def projector_flops(vision: VisionShape, llm: LLMShape, frames: int) -> int:
    """Two linear layers on every patch, before pooling: 2 P (d_v D + D^2)."""
    return frames * 2 * vision.patches * (vision.hidden * llm.hidden + llm.hidden**2)


def prefill_flops(shape: LLMShape, layer_lengths: Sequence[int]) -> int:
    """Prompt through all layers, and the head at the last position.

    Args:
        shape: of the language model.
        layer_lengths: positions that each layer processes; they differ when tokens are pruned between layers.
    """
    return sum(_layer(shape, n, n) for n in layer_lengths) + 2 * shape.hidden * shape.vocabulary


def decode_flops(shape: LLMShape, layer_lengths: Sequence[int], new_tokens: int) -> int:
    """All answer tokens after the first, each against a cache that grows by one.

    Args:
        shape: of the language model.
        layer_lengths: cached prompt positions of each layer.
        new_tokens: tokens of the answer; the first one comes out of prefill.
    """
    steps = range(1, new_tokens)
    layers = sum(_layer(shape, 1, n + step) for n in layer_lengths for step in steps)
    return layers + len(steps) * 2 * shape.hidden * shape.vocabulary


def _layer(shape: LLMShape, queries: int, keys: int) -> int:
    """One decoder layer: q and o 4 n D a, k and v 4 n D g, scores and mixing 4 n k a, three MLP matrices 6 n D m.

    a = heads * head_dim, g = kv_heads * head_dim.
    """
    a, g = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = 4 * shape.hidden * (a + g) + 6 * shape.hidden * shape.intermediate
    return queries * (matrices + 4 * keys * a)
