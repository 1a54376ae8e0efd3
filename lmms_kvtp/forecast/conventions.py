"""The conventions by which the literature counts operations, so that any paper's figure can be lined up."""

from collections.abc import Sequence

from lmms_kvtp.cost.flops import LLMShape
from lmms_kvtp.cost.sample import SampleCost

FULL, CAUSAL, LLM, MACS, FASTV = "full", "causal", "LLM only", "MACs", "FastV formula"
MEANING = {
    FULL: "every stage, 2 operations per multiply-add, attention over the full square: this package's own figure",
    CAUSAL: "the same, but only the pairs of positions that a causal mask leaves",
    LLM: "prefill alone: no vision tower, no helper",
    MACS: "multiply-adds of every stage: half of `full`",
    FASTV: "sum over layers of 4 n d^2 + 2 n^2 d + 2 n d m (arXiv 2403.06764): multiply-adds of the language model "
    "with two MLP matrices instead of three and no grouped queries",
}


def conventions(cost: SampleCost, llm: LLMShape) -> dict[str, float]:
    """Operations of an answer by each convention, without decoding after the first token."""
    whole = cost.flops_total - cost.flops.get("generate", 0)
    prefill = cost.flops["prefill"]
    return {
        FULL: float(whole),
        CAUSAL: float(whole - prefill + cost.prefill_flops_causal),
        LLM: float(prefill),
        MACS: whole / 2,
        FASTV: float(fastv_formula(llm, cost.layer_lengths)),
    }


def fastv_formula(llm: LLMShape, layer_lengths: Sequence[int]) -> int:
    """4 n d^2 + 2 n^2 d + 2 n d m, over all layers.

    Source: FastV (arXiv 2403.06764), section 4.
    """
    d, m = llm.hidden, llm.intermediate
    return sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in layer_lengths)
