"""AKS as its authors released it, with the frames that it loses."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import HalvingAllocator, check, halved, scaled, whole_frames


@dataclass(frozen=True)
class AdaptiveKeyframesRelease(HalvingAllocator):
    """As `aks`, but loses the frames that a part's share cannot give; it then keeps less than the total.

    A video is halved to `depth` even where a half has no frame to keep, and a part of d halvings gives at most
    floor(frames / 2^d) of its frames.

    Source: the release of AKS (arXiv 2502.21271), github.com/ncTimTang/AKS @ 4667501.
    """

    exact: ClassVar[bool] = False
    paper: ClassVar[str] = "AKS, arXiv 2502.21271 (released code)"

    def allocate(self, relevance: Float[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
        """Choose frames by parts of the video; ties go to the earlier frame."""
        check(relevance, total, capacity)
        count = ceil(total / capacity)
        if not count:
            return torch.zeros(len(relevance), dtype=torch.int64)
        scores, kept = scaled(relevance), torch.zeros(len(relevance), dtype=torch.bool)
        for start, stop, halvings in halved(scores, count, self.threshold, self.depth, lambda *_: False):
            share = min(count // 2**halvings, stop - start)
            kept[start:stop] = whole_frames(scores[start:stop], share, 1) > 0
        return whole_frames(scores.masked_fill(~kept, -1), min(total, int(kept.sum()) * capacity), capacity)
