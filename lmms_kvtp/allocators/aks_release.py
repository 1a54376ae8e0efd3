"""AKS as its authors released it, with the frames that it loses."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmms_kvtp.allocators.base import HalvingAllocator, whole_frames


@dataclass(frozen=True)
class AdaptiveKeyframesRelease(HalvingAllocator):
    """As `aks`, but loses the frames that a part's share cannot give; it then keeps less than the total.

    A video is halved to `depth` even where a half has no frame to keep, and a part of d halvings gives at most
    floor(frames / 2^d) of its frames.

    Source: the release of AKS (arXiv 2502.21271), github.com/ncTimTang/AKS @ 4667501.
    """

    exact: ClassVar[bool] = False
    paper: ClassVar[str] = "AKS, arXiv 2502.21271 (released code)"

    def choose(self, scores: Float[Tensor, " T"], count: int) -> Bool[Tensor, " T"]:
        """Mark what each part's share gives."""
        parts = self.parts(scores, count, lambda *_: False)
        shares = [min(count // 2**halvings, stop - start) for start, stop, halvings in parts]
        return torch.cat([whole_frames(scores[a:b], n, 1) for (a, b, _), n in zip(parts, shares, strict=True)]) > 0
