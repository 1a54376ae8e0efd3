"""Equal relevance for every frame: the baseline that prunes without reading the question."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.types import FrameFeatures


@dataclass(frozen=True)
class SameRelevance(FrameScorer):
    """Every frame is as relevant as any other."""

    query_aware: ClassVar[bool] = False

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Give every frame 1."""
        return torch.ones(len(features.times))
