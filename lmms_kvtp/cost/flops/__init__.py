"""Operations of every stage, in closed form from shapes and lengths.

Convention: 2 operations per multiply-add, attention over the full n x n square (as `torch.utils.flop_counter` counts
eager attention, also under a causal mask), matrix products and convolutions only: normalisations, activations,
softmax and look-ups are left out, together under 1 % at the sizes of LLaVA-Video-7B. The tests hold every function to
the counter's figure exactly. Published figures differ by convention: `conventions` has the others, docs/costs.md tells
of them.
"""

from lmms_kvtp.cost.flops.llm import LLMShape, decode_flops, prefill_flops, projector_flops, selection_flops
from lmms_kvtp.cost.flops.pairs import pairs_flops
from lmms_kvtp.cost.flops.towers import (
    TextShape,
    VisionShape,
    cosine_flops,
    features_flops,
    pooling_head_flops,
    relevance_flops,
    text_flops,
    vision_flops,
)

__all__ = [
    "LLMShape",
    "TextShape",
    "VisionShape",
    "cosine_flops",
    "decode_flops",
    "features_flops",
    "pairs_flops",
    "pooling_head_flops",
    "prefill_flops",
    "projector_flops",
    "relevance_flops",
    "selection_flops",
    "text_flops",
    "vision_flops",
]
