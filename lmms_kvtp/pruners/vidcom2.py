"""VidCom2: the tokens that are unlike their frame and unlike the video."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.pruners.base import ScorePruner
from lmms_kvtp.pruners.parts.likeness import LikenessSettings, frame_means, likeness, steady, unit
from lmms_kvtp.pruners.parts.packing import chunks
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
        channels = steady(tokens.embeds, self.channels)
        means = frame_means(tokens.embeds, channels)
        scores = []
        for part in chunks(tokens.embeds):
            vectors = unit(tokens.embeds[part], channels)
            to_video = likeness(vectors, means.mean(dim=0), self.widths)
            scores.append(to_video + likeness(vectors, means[part], self.widths))
        return -torch.cat(scores)
