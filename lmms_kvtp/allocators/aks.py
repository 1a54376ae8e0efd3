"""AKS: whole frames, spread over the video unless relevance peaks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lmms_kvtp.allocators.base import HalvingAllocator, largest_remainder, whole_frames


@dataclass(frozen=True)
class AdaptiveKeyframes(HalvingAllocator):
    """Halves the video until relevance peaks in a part, and keeps each part's top frames whole.

    With relevance scaled to [0, 1] over the video, a part whose top k frames exceed its mean by more than `threshold`
    on average is not halved further, where k frames is what the total holds. Each halving halves a part's share of
    these frames, down to one. Frames that a share cannot give, being a fraction or more than the part has, go to the
    other parts; the release loses them. Of the kept frames, the least relevant keeps what is left of the total.

    Source: AKS (arXiv 2502.21271), section 3.
    """

    paper: ClassVar[str] = "AKS, arXiv 2502.21271"

    def choose(self, scores: Float[Tensor, " T"], count: int) -> Bool[Tensor, " T"]:
        """Mark each part's share of the frames."""
        parts = self.parts(scores, count, lambda n, h: n == 1 or count < 2 ** (h + 1))
        weights = torch.tensor([0.5**halvings for _, _, halvings in parts])
        lengths = torch.tensor([stop - start for start, stop, _ in parts])
        shares = largest_remainder(weights, count, lengths).tolist()
        chosen = [whole_frames(scores[a:b], share, 1) for (a, b, _), share in zip(parts, shares, strict=True)]
        return torch.cat(chosen) > 0
