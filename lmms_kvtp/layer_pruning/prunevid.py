"""PruneVid, second stage: keep the vision tokens that the question attends to, in every layer's cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape, selection_flops
from lmms_kvtp.layer_pruning.base import LayerPruner, Stage, StageInput
from lmms_kvtp.layer_pruning.parts.attention import check_ratio, check_scores, unrotated_attention
from lmms_kvtp.types import TEXT, VISION


@dataclass(frozen=True)
class PruneVidLayers(LayerPruner):
    """Rank vision tokens by the most attention that a text position behind them pays in any head of one layer.

    The attention is computed without rotary positions and without causal mask, as published. In each group a share
    `alpha` stays: groups are those of the pruner (static tokens of a segment, dynamic tokens of a frame) where it
    made some, else frames. The dropped tokens leave the caches of all layers, decoding goes on with the position
    after the prompt. Newlines, which the published model has none of, stay, as text does.

    Source: PruneVid (arXiv 2412.16117), as in its released code for PLLaVA.
    """

    paper: ClassVar[str] = "PruneVid, arXiv 2412.16117"

    layer: int = 10
    """The layer, counted from 0, whose attention ranks; the layers behind it process only what was kept."""
    alpha: float = 0.4
    """Vision tokens kept over those of a group."""
    rounding: Literal["floor", "exact"] = "floor"
    """floor: as published, each group rounds down, so small groups lose more than their share, or everything.
    exact: as many tokens as alpha leaves of all, those that rounding would lose to the groups that are nearest."""

    def __post_init__(self) -> None:
        """Refuse a layer before the first, and a share outside (0, 1]."""
        if self.layer < 0:
            raise ValueError(f"prunevid layer={self.layer} is below 0, the first layer")
        check_ratio("prunevid alpha", self.alpha)

    def stages(self) -> tuple[Stage, ...]:
        """List the one stage, which also shortens the caches before it."""
        return (Stage(self.layer + 1, reads=self.layer, select=self._select, compress=True),)

    def kept(self, entered: int) -> tuple[tuple[int, int], ...]:
        """Tell the one step; groups that round down leave a little less."""
        return ((self.layer + 1, int(self.alpha * entered)),)

    def flops(self, shape: LLMShape, layer_lengths: Sequence[int], role: Int[Tensor, " L"]) -> int:
        """Count the attention of every text position behind the vision tokens, in `layer`."""
        return selection_flops(shape, layer_lengths[self.layer], rows=len(_question(role)))

    def _select(self, inputs: StageInput) -> Bool[Tensor, " K"]:
        groups = inputs.frame if inputs.segment is None else inputs.segment
        vision = torch.nonzero(inputs.vision).flatten()
        question = _question(inputs.role)
        if len(question) == 0:
            raise ValueError("prunevid ranks vision tokens by the text behind them, and this prompt has none")
        kept = vision[self._best(unrotated_attention(inputs, question)[vision], groups[vision])]
        return torch.zeros_like(inputs.vision).index_fill(0, kept, True)

    def _best(self, scores: Float[Tensor, " V"], groups: Int[Tensor, " V"]) -> Int[Tensor, " k"]:
        """Find the indices of the best of each group; ties go to the earlier token."""
        check_scores(scores)
        sizes = torch.bincount(groups)
        order = scores.argsort(descending=True, stable=True)
        order = order[groups[order].argsort(stable=True)]  # group by group, best first
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        return order[rank < self.quotas(sizes).repeat_interleave(sizes)]

    def quotas(self, sizes: Int[Tensor, " G"]) -> Int[Tensor, " G"]:
        """Count the tokens that groups of these sizes keep."""
        shares = self.alpha * sizes.double()
        quotas = shares.long()
        if self.rounding == "exact":
            lost = round(self.alpha * int(sizes.sum())) - int(quotas.sum())
            nearest = (shares - quotas).argsort(descending=True, stable=True)
            quotas[nearest[: max(0, lost)]] += 1
        return quotas


def _question(role: Int[Tensor, " K"]) -> Int[Tensor, " q"]:
    """Find the text positions behind all vision tokens."""
    text = torch.nonzero(role == TEXT).flatten()
    return text[text > torch.nonzero(role == VISION).max()]
