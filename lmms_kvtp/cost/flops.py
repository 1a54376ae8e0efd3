"""Operations of every stage, in closed form from shapes and lengths.

Convention: 2 operations per multiply-add, attention over the full n x n square (as `torch.utils.flop_counter` counts
eager attention, also under a causal mask), matrix products and convolutions only: normalizations, activations,
softmax and look-ups are left out, together under 1 % at the sizes of LLaVA-Video-7B. The tests hold every function to
the counter's figure exactly. Published figures follow other conventions; see docs/costs.md.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

FRAME = (720, 1280)
"""Height and width of a frame where nobody says another."""
TEXT_TOKENS = 120
"""Prompt positions beside the video: chat template, question, four options and the instruction."""


@dataclass(frozen=True)
class VisionShape:
    """Sizes of a vision transformer, from its config."""

    image_size: int
    """Pixels along a side of the frame."""
    patch_size: int
    hidden: int
    intermediate: int
    layers: int
    """Number of layers that run."""
    heads: int

    @property
    def side(self) -> int:
        """Patches along a side of the frame; pixels beyond the last whole patch are dropped."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return self.side**2


@dataclass(frozen=True)
class TextShape:
    """Sizes of an image-text model's text tower, from its config."""

    hidden: int
    intermediate: int
    layers: int
    projection: int
    """Width of the joint space, which a linear layer maps the pooled position to."""


@dataclass(frozen=True)
class MergedShape:
    """Sizes of a tower whose 2 x 2 neighbours are merged into one token, from its config: Qwen-VL's, InternVL's."""

    patch_size: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    outer: int
    """Width of the language model."""
    frames: int = 1
    """Frames that the first convolution reads at once."""
    class_token: bool = False
    gated: bool = False
    """Whether the MLP has three matrices, not two."""
    window: int | None = None
    """Patches along a side of the windows in which layers attend; None: each patch sees all of its step."""
    full_layers: int = 0
    """Layers that attend to the whole step all the same."""
    inner: int | None = None
    """Width between the merger's two matrices; None: that of the four patches."""
    mergers: int = 1


def merged_flops(shape: MergedShape, grid: tuple[int, int], steps: int) -> tuple[int, int]:
    """Count a tower and its mergers on steps of h x w patches.

    Per step of P patches: 2 P 3 t p^2 d for the convolution; in each layer, of n = P positions, or P + 1 with a class
    token, n (8 d^2 + 4 d m), 6 d m if gated, and 4 d times the sum of n^2 over windows; each merger 2 P / 4 times
    (4 d i + i D).
    """
    (rows, columns), d = grid, shape.hidden
    p, n = rows * columns, rows * columns + shape.class_token
    side = shape.window or max(grid)
    parts = [[min(side, length - first) for first in range(0, length, side)] for length in grid]
    windows = sum((high * wide) ** 2 for high in parts[0] for wide in parts[1]) if shape.window else n * n
    matrices = shape.layers * n * (8 * d * d + (6 if shape.gated else 4) * d * shape.intermediate)
    pairs = shape.full_layers * n * n + (shape.layers - shape.full_layers) * windows
    tower = 2 * p * 3 * shape.frames * shape.patch_size**2 * d + matrices + 4 * d * pairs
    inner = shape.inner or 4 * d
    return steps * tower, steps * shape.mergers * 2 * (p // 4) * (4 * d * inner + inner * shape.outer)


def vision_flops(shape: VisionShape, frames: int) -> int:
    """Patch embedding and transformer layers over `frames` frames.

    Per frame of P patches and width d: 2 P 3 p^2 d for the convolution over patches of p pixels, and the layers.
    """
    embedding = 2 * shape.patches * 3 * shape.patch_size**2 * shape.hidden
    return frames * (embedding + shape.layers * encoder_layer_flops(shape.patches, shape.hidden, shape.intermediate))


def encoder_layer_flops(positions: int, hidden: int, intermediate: int) -> int:
    """One layer in which n positions of width d see each other.

    Four projections 8 n d^2, scores and mixing 4 n^2 d, an MLP of two matrices 4 n d m.
    """
    return positions * hidden * (8 * hidden + 4 * positions + 4 * intermediate)


def pooling_head_flops(shape: VisionShape, frames: int, patches: int | None = None) -> int:
    """SigLIP's attention pooling: one probe attends to all patches, then an MLP on the pooled vector.

    Keys and values of P patches 4 P d^2, query and output 4 d^2, scores and mixing 4 P d, MLP 4 d m, each `frames`
    times. P is `patches`: all of a frame by default, 1 where each patch is pooled alone.
    """
    p, d, m = shape.patches if patches is None else patches, shape.hidden, shape.intermediate
    return frames * (4 * p * d * d + 4 * d * d + 4 * p * d + 4 * d * m)


def text_flops(shape: TextShape, lengths: Sequence[int]) -> int:
    """SigLIP's text tower over rows of `lengths` positions: its layers, and 2 d E for the last position of each row."""
    layers = sum(encoder_layer_flops(n, shape.hidden, shape.intermediate) for n in lengths)
    return shape.layers * layers + len(lengths) * 2 * shape.hidden * shape.projection


def features_flops(shape: VisionShape, frames: int, needs: Set[str], projected_keys: bool = False) -> int:
    """A SigLIP's features of frames: tower and head once, and what features of single patches take beside them.

    Column attention takes the scores of one layer again, 2 P^2 d; projected keys 2 P d^2; patches in the joint
    space the head over each of them.
    """
    if not needs:
        return 0
    p = shape.patches
    extra = {
        "column_attention": frames * 2 * p * p * shape.hidden,
        "keys": frames * 2 * p * shape.hidden**2 if projected_keys else 0,
        "patch_text": pooling_head_flops(shape, frames * p, patches=1),
    }
    once = vision_flops(shape, frames) + pooling_head_flops(shape, frames)
    return once + sum(extra.get(name, 0) for name in needs)


def relevance_flops(shape: TextShape, lengths: Sequence[int], frames: int, views: int = 1) -> int:
    """Text tower over rows of `lengths` positions, and cosines with `views` image embeddings of each frame."""
    return text_flops(shape, lengths) + cosine_flops(len(lengths), frames, shape.projection, views)


def cosine_flops(rows: int, frames: int, width: int, views: int = 1) -> int:
    """Cosines of q rows of text with `views` image embeddings of each frame.

    2 q T E for each view; where there are several, they are KVTP's three, whose fusion head takes 6 T^2 E.
    """
    mixed = 6 * frames**2 * width if views > 1 else 0
    return views * 2 * rows * frames * width + mixed


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

    Layers process `layer_lengths` positions, which differ when tokens are pruned between them, behind `reused` ones
    whose keys and values are there already. `causal` counts only the n (n + 1) / 2 pairs that a causal mask leaves,
    instead of all n^2.
    """
    pairs = [n * reused + (n * (n + 1) // 2 if causal else n * n) for n in layer_lengths]
    layers = sum(_layer(shape, n, seen) for n, seen in zip(layer_lengths, pairs, strict=True))
    return layers + 2 * shape.hidden * shape.vocabulary


def decode_flops(shape: LLMShape, layer_lengths: Sequence[int], new_tokens: int) -> int:
    """All of `new_tokens` answer tokens but the first, which comes out of prefill, each against a growing cache.

    The cache of each layer begins with `layer_lengths` positions of the prompt.
    """
    steps = range(1, new_tokens)
    layers = sum(_layer(shape, 1, n + step) for n in layer_lengths for step in steps)
    return layers + len(steps) * 2 * shape.hidden * shape.vocabulary


def selection_flops(shape: LLMShape, positions: int, rows: int) -> int:
    """Recomputed attention of `rows` positions to all n positions of one layer: 2 n D g + 2 r D a + 2 r n a."""
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


def pairs_flops(left: int, right: int, width: int) -> int:
    """Products, or distances, of each of `left` vectors with each of `right` ones: 2 n m d."""
    return 2 * left * right * width
