"""Diverse tokens by greedy max-min selection."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check, pack
from lmms_kvtp.pruners.parts.spread import distances, farthest
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class MaxMin(TokenPruner):
    """Keeps, one after another, the token that is farthest from all tokens kept so far, unchanged.

    Distance is 1 - cosine. The first token is the one farthest from its nearest neighbour. All frames take each step
    together, so the number of steps is the largest budget, whatever the number of frames.

    Source: DivPrune (arXiv 2503.02175), section 3, on each frame.
    """

    paper: ClassVar[str] = "DivPrune, arXiv 2503.02175"

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` mutually distant tokens of frame t."""
        check(tokens, budgets)
        return pack(tokens, tokens.embeds, farthest(distances(tokens.embeds), budgets))

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count all pairs of tokens of a frame: 2 T N^2 D."""
        return tokens.num_frames * pairs_flops(tokens.capacity, tokens.capacity, tokens.embeds.shape[2])
