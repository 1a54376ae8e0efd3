"""PyramidDrop: drop a share of the vision tokens several times on the way through the language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from jaxtyping import Bool, Int
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape, selection_flops
from lmms_kvtp.layer_pruning.base import LayerPruner, Stage, StageInput
from lmms_kvtp.layer_pruning.parts.attention import check_ratio, highest, last_query_attention


@dataclass(frozen=True)
class PyramidDrop(LayerPruner):
    """Rank vision tokens by the attention of the last position, averaged over heads, before each of `layers`.

    The attention is that of the layer itself on what enters it, before anything is dropped; the layers before keep
    their caches. Newlines and text stay, and behind each stage what is left is numbered anew, as in the release.

    Source: PyramidDrop (arXiv 2410.17247): four stages of equal depth, each leaves half of the tokens of the one
    before, counts rounded down. The paper's models have 32 layers and drop before layers 8, 16 and 24; the default
    here is for the 28 layers of Qwen2-7B. The count never falls below one token.
    """

    paper: ClassVar[str] = "PyramidDrop, arXiv 2410.17247"

    layers: tuple[int, ...] = (7, 14, 21)
    """Layers, counted from 0, before which tokens are dropped; ascending."""
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)
    """Vision tokens left from each of `layers` on, over those that entered the model; not ascending."""
    positions: Literal["renumbered", "kept"] = "renumbered"
    """Rotary positions behind a stage: from 0 on without gaps, or those of the whole prompt."""

    def __post_init__(self) -> None:
        """Refuse layers and ratios that do not go together."""
        if len(self.layers) != len(self.ratios) or not self.layers:
            raise ValueError(f"pyramiddrop has {len(self.layers)} layers and {len(self.ratios)} ratios; give one each")
        if list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"pyramiddrop layers={self.layers} are not ascending from 0 on")
        for ratio in self.ratios:
            check_ratio("pyramiddrop ratios: one", ratio)
        if list(self.ratios) != sorted(self.ratios, reverse=True):
            raise ValueError(f"pyramiddrop ratios={self.ratios} ascend; a token that was dropped does not come back")

    def stages(self) -> tuple[Stage, ...]:
        """List one stage for each layer."""
        pairs = zip(self.layers, self.ratios, strict=True)
        anew = self.positions == "renumbered"
        return tuple(Stage(at, reads=at, select=partial(self._select, share), renumber=anew) for at, share in pairs)

    def kept(self, entered: int) -> tuple[tuple[int, int], ...]:
        """Tell one step for each layer."""
        pairs = zip(self.layers, self.ratios, strict=True)
        return tuple((layer, max(1, int(ratio * entered))) for layer, ratio in pairs)

    def flops(self, shape: LLMShape, layer_lengths: Sequence[int], role: Int[Tensor, " L"]) -> int:
        """Count the attention of the last position in each of `layers`, over what enters it."""
        entering = [len(role), *layer_lengths]
        return sum(selection_flops(shape, entering[layer], rows=1) for layer in self.layers)

    def _select(self, ratio: float, inputs: StageInput) -> Bool[Tensor, " K"]:
        count = max(1, int(ratio * inputs.entered))
        return highest(last_query_attention(inputs), inputs.vision, count)
