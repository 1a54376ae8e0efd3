"""PruneVid's first stage as its release keeps tokens, whatever the budget; for reproduction."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.pruners.parts.scenes import StillPruner

FEW = 14
"""Tokens of a group that are not clustered."""


@dataclass(frozen=True)
class PruneVidRelease(StillPruner):
    """Merges what stays still in a scene, then keeps a ratio of what is left, whatever the budget.

    The ratio is taken after the merging over time, so a still video keeps far less of its tokens than a lively one:
    with static positions in scenes of 8 frames, 1/16 of these at a ratio of 0.5. Budgets are not read.

    Source: the released code of PruneVid (arXiv 2412.16117), without the noise that breaks its ties. A scene of one
    frame divides by zero there; here all of it is dynamic.
    """

    exact: ClassVar[bool] = False
    identity_at_full: ClassVar[bool] = False
    paper: ClassVar[str] = "PruneVid, arXiv 2412.16117 (released code)"

    ratio: float = 0.5
    """Tokens kept of a scene's static ones, and of the dynamic ones of a frame, rounded down; 14 or fewer all stay."""

    def __post_init__(self) -> None:
        """Refuse a ratio of nothing."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} is outside (0, 1]; it is a part of the merged tokens")

    def shares(self, sizes: list[int], weights: Float[Tensor, " G"], total: int) -> list[int]:
        """Take the ratio of each group of more than 14."""
        return [max(1, int(self.ratio * size)) if size > FEW else size for size in sizes]
