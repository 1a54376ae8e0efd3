"""PruneVid's first stage as its release keeps tokens, whatever the budget; for reproduction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check
from lmms_kvtp.pruners.parts.scenes import cluster_groups, still_and_moving, still_scenes
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

FEW = 14
"""Tokens of a group that are not clustered."""


@dataclass(frozen=True)
class PruneVidRelease(TokenPruner):
    """Merges what stays still in a scene, then keeps a ratio of what is left, whatever the budget.

    The ratio is taken after the merging over time, so a still video keeps far less of its tokens than a lively one:
    with static positions in scenes of 8 frames, 1/16 of these at a ratio of 0.5. Budgets are not read.

    Source: the released code of PruneVid (arXiv 2412.16117), without the noise that breaks its ties. A scene of one
    frame divides by zero there; here all of it is dynamic.
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    exact: ClassVar[bool] = False
    identity_at_full: ClassVar[bool] = False
    paper: ClassVar[str] = "PruneVid, arXiv 2412.16117 (released code)"

    ratio: float = 0.5
    """Tokens kept of a scene's static ones, and of the dynamic ones of a frame, rounded down; 14 or fewer all stay."""
    threshold: float = 0.8
    """Least similarity of a static position."""
    scenes: float = 0.25
    """Clusters of frames, as a part of their number; scenes are runs of frames, and may be fewer."""
    neighbours: int = 7
    """Neighbors that count for density in density-peak clustering."""

    def __post_init__(self) -> None:
        """Refuse a ratio of nothing."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} is outside (0, 1]; it is a part of the merged tokens")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep what the ratio leaves."""
        check(tokens, budgets)
        scenes, scores = still_scenes(tokens.embeds, self.scenes, self.neighbours)
        groups, _ = still_and_moving(scenes, scores > self.threshold, budgets)
        sizes = [group.shape[1] for group in groups]
        shares = [max(1, int(self.ratio * size)) if size > FEW else size for size in sizes]
        return cluster_groups(tokens, groups, shares, self.neighbours)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> None:
        """Not known beforehand: operations depend on what is found, and the kept tokens carry their count."""
