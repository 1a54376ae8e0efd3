"""No pruning between layers: every token that enters the language model goes through all of it."""

from dataclasses import dataclass
from typing import ClassVar

from lmms_kvtp.layer_pruning.base import LayerPruner, Stage


@dataclass(frozen=True)
class NoLayerPruning(LayerPruner):
    """Leaves the language model alone."""

    query_aware: ClassVar[bool] = False

    def stages(self) -> tuple[Stage, ...]:
        """List no stage."""
        return ()
