"""What KVTP's relevance predictor is trained for."""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.scorers.parts.fusion import pool_clips


@dataclass(frozen=True)
class Objective:
    """Loss of the logits of one question on one video, -sum log sigmoid(logit * (label - mean label)).

    A frame above the mean label is pulled up and one below it down, each in proportion to its distance. Where all
    labels are equal, as for questions on the whole video, that has no gradient: `flatness` then is all that counts.

    Source: KVTP (arXiv 2503.10742), eq. 4, 5 and 11. The paper prints the sum over frames; its release pools logits
    per clip and takes the label of the clip's first frame, which is the default here.
    """

    level: Literal["clip", "frame"] = "clip"
    """What has a label. clip: as the release, by its first frame. frame: as the paper's equation."""
    pooling: Literal["softmax", "max"] = "softmax"
    """How the logits of a clip become one; only read at the level of clips."""
    clip_size: int = 8
    """Frames of a clip."""
    flatness: float = 0.0
    """Weight of sum (logit - mean logit)^2 on questions whose labels are all equal; 0 as in the paper."""

    def __post_init__(self) -> None:
        """Refuse a weight that rewards what it should hold down."""
        if not (self.flatness >= 0 and math.isfinite(self.flatness)):
            raise ValueError(f"flatness={self.flatness} is no weight; give a number of at least 0, such as 0.3")

    def __call__(self, logits: Float[Tensor, "q T"], labels: Float[Tensor, " T"]) -> Float[Tensor, ""]:
        """Loss of one question; its pieces of text compete for each frame or clip.

        Args:
            logits: of each piece of the question and each frame.
            labels: relevance of the frames, 0 to 5.
        """
        scores = self.scores(logits)
        wanted = labels if self.level == "frame" else labels[:: self.clip_size]
        loss = -F.logsigmoid(scores * (wanted - wanted.mean())).sum()
        if self.flatness and (labels == labels[0]).all():
            loss = loss + self.flatness * (scores - scores.mean()).square().sum()
        return loss

    def scores(self, logits: Float[Tensor, "q T"]) -> Float[Tensor, " S"]:
        """The logits that the loss compares with labels: one per frame or clip, of the best piece of text."""
        best = logits.amax(dim=0)
        if self.level == "frame":
            return best
        return pool_clips(best[None], self.clip_size, self.pooling)[0]
