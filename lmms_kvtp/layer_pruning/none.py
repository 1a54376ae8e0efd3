"""No pruning between layers: every token that enters the language model goes through all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape
from lmms_kvtp.layer_pruning.base import LayerPruner, Stage


@dataclass(frozen=True)
class NoLayerPruning(LayerPruner):
    """Leaves the language model alone."""

    query_aware: ClassVar[bool] = False

    def stages(self) -> tuple[Stage, ...]:
        """There are none."""
        return ()

    def flops(self, shape: LLMShape, layer_lengths: Sequence[int], role: Int[Tensor, " L"]) -> int:
        """None at all."""
        return 0
