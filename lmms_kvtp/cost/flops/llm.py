"""Operations of projector and language model, from shapes and lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_kvtp.cost.flops.towers import VisionShape


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


def projector_flops(vision: VisionShape, llm: LLMShape, frames: int) -> int:
    """Two linear layers on every patch, before pooling: 2 P (d_v D + D^2)."""
    return frames * 2 * vision.patches * (vision.hidden * llm.hidden + llm.hidden**2)


def prefill_flops(shape: LLMShape, layer_lengths: Sequence[int], causal: bool = False, reused: int = 0) -> int:
    """Prompt through all layers, and the head at the last position.

    Args:
        shape: of the language model.
        layer_lengths: positions that each layer processes; they differ when tokens are pruned between layers.
        causal: count only the n (n + 1) / 2 pairs that a causal mask leaves, instead of all n^2.
        reused: positions before these, whose keys and values are there already.
    """
    pairs = [n * reused + (n * (n + 1) // 2 if causal else n * n) for n in layer_lengths]
    layers = sum(_layer(shape, n, seen) for n, seen in zip(layer_lengths, pairs, strict=True))
    return layers + 2 * shape.hidden * shape.vocabulary


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


def selection_flops(shape: LLMShape, positions: int, rows: int) -> int:
    """What `rows` positions pay to all n positions of one layer, recomputed: 2 n D g + 2 r D a + 2 r n a."""
    a, g = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return 2 * positions * shape.hidden * g + 2 * rows * shape.hidden * a + 2 * rows * positions * a


def _layer(shape: LLMShape, positions: int, pairs: int) -> int:
    """One decoder layer.

    q and o 4 n D a, k and v 4 n D g, three MLP matrices 6 n D m, scores and mixing 4 a for each pair of query and key;
    a = heads * head_dim, g = kv_heads * head_dim.
    """
    a, g = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = 4 * shape.hidden * (a + g) + 6 * shape.hidden * shape.intermediate
    return positions * matrices + 4 * pairs * a
