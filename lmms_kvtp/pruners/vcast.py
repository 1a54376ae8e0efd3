"""V-CAST: the tokens that are unlike their frame, and long ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.pruners.base import ScorePruner
from lmms_kvtp.pruners.parts.packing import chunks
from lmms_kvtp.types import FrameFeatures, FrameTokens


@dataclass(frozen=True)
class VCast(ScorePruner):
    """Keeps the tokens that differ most from the mean token of their frame, and those of greatest length.

    A score is 1 - cosine to the frame's mean plus the token's length, scaled to [0, 1] in its frame.

    Source: V-CAST (arXiv 2603.27650), without its budgets of frames: these are `scorer=vcast` with `allocator=vcast`.
    """

    paper: ClassVar[str] = "V-CAST, arXiv 2603.27650"

    def score(self, tokens: FrameTokens, features: FrameFeatures) -> Float[Tensor, "T N"]:
        """Score how unlike its frame and how long each token is."""
        scores = []
        for part in chunks(tokens.embeds):
            rows = tokens.embeds[part].float()
            lengths = rows.norm(dim=2)
            least, most = lengths.amin(dim=1, keepdim=True), lengths.amax(dim=1, keepdim=True)
            unlike = 1 - F.cosine_similarity(rows, rows.mean(dim=1, keepdim=True), dim=2)
            scores.append(unlike + (lengths - least) / (most - least + 1e-6))
        return torch.cat(scores)
