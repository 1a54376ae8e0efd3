"""VidCom2's frame weights: how unlike the video a frame is."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.pruners.parts.likeness import Directions, LikenessSettings, steady
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.types import FrameFeatures


@dataclass(frozen=True)
class VidCom2Relevance(LikenessSettings, FrameScorer):
    """A frame counts by how little its tokens are like the mean token of the video; the question plays no part.

    Source: VidCom2 (arXiv 2505.14454), section 3.2; `allocator=vidcom2` makes its budgets of this.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    query_aware: ClassVar[bool] = False
    paper: ClassVar[str] = "VidCom2, arXiv 2505.14454"

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Average the likeness of each frame's tokens to the video, and turn its sign: unlike frames count more."""
        assert features.tokens is not None
        seen = Directions.of(features.tokens, steady(features.tokens, self.channels))
        return -seen.likeness(self.widths, to_video=True).mean(dim=1)

    def flops(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> int:
        """Count five products of every token: for the mean, the variance, the length, frames' means and the video's."""
        assert features.tokens is not None
        return pairs_flops(5, features.tokens.shape[:2].numel(), features.tokens.shape[2])
