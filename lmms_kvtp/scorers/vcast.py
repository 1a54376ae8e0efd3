"""V-CAST's frame weights: where the video turns."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.types import FrameFeatures


@dataclass(frozen=True)
class VCastRelevance(FrameScorer):
    """A frame counts by the angle between the steps that lead to it and away from it; the question plays no part.

    Steps are differences of mean tokens, each scaled to length 1, so that a brighter frame is no turn. A frame on a
    straight way has 0, one where the video turns back 2; the first and the last have 1, and so has a frame with no
    step beside it.

    Source: V-CAST (arXiv 2603.27650); its budgets are `allocator=vcast`, its choice of tokens `pruner=vcast`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    query_aware: ClassVar[bool] = False
    paper: ClassVar[str] = "V-CAST, arXiv 2603.27650"

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Compute 1 - cosine of the two steps."""
        assert features.tokens is not None
        steps = F.normalize(features.tokens.mean(dim=1, dtype=torch.float32), dim=1, eps=1e-6).diff(dim=0)
        scores = torch.ones(len(features.tokens), device=steps.device)
        scores[1:-1] = 1 - F.cosine_similarity(steps[:-1], steps[1:], dim=1)
        return scores
