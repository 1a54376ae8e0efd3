"""EVS: the tokens that changed since the frame before."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check, pack, top
from lmms_kvtp.pruners.parts.scenes import change
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class EfficientVideoSampling(TokenPruner):
    """Keeps, over the whole video, the tokens that differ most from the same patch of the frame before.

    The first frame is kept before all others; a total below one frame, of which the release would keep all, leaves its
    first patches. Only the total of the budgets counts.

    Source: Efficient Video Sampling (arXiv 2510.14624) as released in vLLM.
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    paper: ClassVar[str] = "EVS, arXiv 2510.14624"

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many tokens as all budgets together."""
        check(tokens, budgets)
        before = (torch.arange(tokens.num_frames) - 1).clamp_min(0)
        scores = change(tokens.embeds, before)
        scores[0] = torch.inf
        keep = top(scores.reshape(1, -1), budgets.sum()[None])
        return pack(tokens, tokens.embeds, keep.reshape(scores.shape), int(budgets.sum()))
