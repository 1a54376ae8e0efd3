"""FastV: after the first layers, keep the vision tokens that the last prompt position attends to."""

from dataclasses import dataclass
from typing import ClassVar

from lmms_kvtp.layer_pruning.base import Stage
from lmms_kvtp.layer_pruning.parts.attention import LastPositionPruner


@dataclass(frozen=True)
class FastV(LastPositionPruner):
    """Rank vision tokens by the attention of the last position in layer `layer - 1`, averaged over heads.

    `layer` is K of the paper, `ratio` 1 - R. Tokens are dropped once, in prefill; decoding goes on with a cache that is
    shorter from `layer` on; newlines and text stay.

    Source: FastV (arXiv 2403.06764), the form with a key-value cache. The released code makes the whole attention
    matrix of one layer for its last row; here only that row is computed. It drops every vision token where the
    rounded count is 0; here one is left.
    """

    paper: ClassVar[str] = "FastV, arXiv 2403.06764"

    def stages(self) -> tuple[Stage, ...]:
        """List the one stage."""
        return (Stage(self.layer, reads=self.layer - 1, select=self.select),)
