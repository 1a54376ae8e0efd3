"""VidCom2: the tokens that are unlike their frame and unlike the video."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import ScorePruner
from lmms_kvtp.pruners.parts.likeness import Directions, LikenessSettings, steady
from lmms_kvtp.types import FrameFeatures, FrameTokens


@dataclass(frozen=True)
class VidCom2(LikenessSettings, ScorePruner):
    """Keeps the tokens of least similarity to the mean token of the video and of their frame.

    Similarity is a sum of Gaussian kernels of several widths, on unit vectors of the channels that vary least.

    Source: VidCom2 (arXiv 2505.14454), without its budgets of frames: these are `scorer=vidcom2` with
    `allocator=vidcom2`.
    """

    paper: ClassVar[str] = "VidCom2, arXiv 2505.14454"

    def score(self, tokens: FrameTokens, features: FrameFeatures) -> Float[Tensor, "T N"]:
        """Score how unlike video and frame each token is."""
        seen = Directions.of(tokens.embeds, steady(tokens.embeds, self.channels))
        return -(seen.likeness(self.widths, to_video=True) + seen.likeness(self.widths, to_video=False))

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count six products of every token: for the mean, the variance, the length, and the means that it is like."""
        return pairs_flops(6, tokens.num_frames * tokens.capacity, tokens.embeds.shape[2])
