"""PruneVid's first stage: static patches merged over time, dynamic ones within their frame."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.allocators.base import largest_remainder
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check
from lmms_kvtp.pruners.parts.scenes import affordable, cluster_groups, still_and_moving, still_scenes
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class PruneVid(TokenPruner):
    """Cuts the video into scenes, averages patches that stay the same in a scene, and clusters what is left.

    A patch position whose tokens have a mean pairwise cosine above `threshold` in its scene is static. The averages of
    a scene's static positions, and the dynamic tokens of each frame, are clustered down to a share of the total that
    is proportional to their number, weighted by budgets: those of the frame, or the scene's mean. Each keeps at least
    one token where the total allows it. Where it leaves room, the least similar positions are not merged. What is
    clustered together is a segment for `layer_pruning=prunevid`.

    Source: PruneVid (arXiv 2412.16117), section 3.2. There both kinds keep half of their number whatever the budget,
    and 14 tokens or fewer are not clustered: see pruners/prunevid_release.py. A scene of one frame has no pairs; the
    release divides by zero, here all of it is dynamic.
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    paper: ClassVar[str] = "PruneVid, arXiv 2412.16117"

    threshold: float = 0.8
    """Least similarity of a static position."""
    scenes: float = 0.25
    """Clusters of frames, as a part of their number; scenes are runs of frames, and may be fewer."""
    neighbours: int = 7
    """Neighbors that count for density in density-peak clustering."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many tokens as all budgets together."""
        check(tokens, budgets)
        total = int(budgets.sum())
        scenes, scores = still_scenes(tokens.embeds, self.scenes, self.neighbours)
        lengths = [scene.stop - scene.start for scene in scenes]
        static = affordable(scores, self.threshold, lengths, spare=tokens.num_frames * tokens.capacity - total)
        groups, weights = still_and_moving(scenes, static, budgets)
        shares = largest_remainder(weights, total, torch.tensor([g.shape[1] for g in groups]), floor=1)
        return cluster_groups(tokens, groups, shares.tolist(), self.neighbours)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> None:
        """Not known beforehand: operations depend on what is found, and the kept tokens carry their count."""
