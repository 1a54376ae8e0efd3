"""PruneVid's first stage: static patches merged over time, dynamic ones within their frame."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.allocators.base import largest_remainder
from lmms_kvtp.pruners.parts.scenes import StillPruner


@dataclass(frozen=True)
class PruneVid(StillPruner):
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

    paper: ClassVar[str] = "PruneVid, arXiv 2412.16117"

    def shares(self, sizes: list[int], weights: Float[Tensor, " G"], total: int) -> list[int]:
        """Share the total by weights, a token for each group at least."""
        shared: list[int] = largest_remainder(weights, total, torch.tensor(sizes), floor=1).tolist()
        return shared
