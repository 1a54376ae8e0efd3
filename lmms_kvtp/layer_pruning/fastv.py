"""FastV: after the first layers, keep the vision tokens that the last prompt position attends to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape, selection_flops
from lmms_kvtp.layer_pruning.base import LayerPruner, Stage, StageInput
from lmms_kvtp.layer_pruning.parts.attention import check_ratio, highest, last_query_attention


@dataclass(frozen=True)
class FastV(LayerPruner):
    """Rank vision tokens by the attention of the last position in layer `layer - 1`, averaged over heads.

    Tokens are dropped once, in prefill, and decoding goes on with a cache that is shorter from `layer` on; newlines
    and text stay.

    Source: FastV (arXiv 2403.06764), the form with a key-value cache. The released code makes the whole attention
    matrix of one layer for its last row; here only that row is computed. It drops every vision token where the
    rounded count is 0; here one is left.
    """

    paper: ClassVar[str] = "FastV, arXiv 2403.06764"

    layer: int = 2
    """The first layer, counted from 0, without the dropped tokens: K of the paper."""
    ratio: float = 0.5
    """Vision tokens kept from `layer` on over those that entered, rounded: 1 - R of the paper."""

    def __post_init__(self) -> None:
        """Refuse a layer without one before it, and a ratio outside (0, 1]."""
        if self.layer < 1:
            raise ValueError(f"fastv layer={self.layer} has no layer before it to take attention from; the least is 1")
        check_ratio("fastv ratio", self.ratio)

    def stages(self) -> tuple[Stage, ...]:
        """List the one stage."""
        return (Stage(self.layer, reads=self.layer - 1, select=self._select),)

    def kept(self, entered: int) -> tuple[tuple[int, int], ...]:
        """Tell the one step."""
        return ((self.layer, max(1, round(self.ratio * entered))),)

    def flops(self, shape: LLMShape, layer_lengths: Sequence[int], role: Int[Tensor, " L"]) -> int:
        """Count the attention of the last position in the layer before."""
        return selection_flops(shape, layer_lengths[self.layer - 1], rows=1)

    def _select(self, inputs: StageInput) -> Bool[Tensor, " K"]:
        [(_, count)] = self.kept(inputs.entered)
        return highest(last_query_attention(inputs), inputs.vision, count)
