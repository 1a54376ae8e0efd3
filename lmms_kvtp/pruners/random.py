"""Random tokens: the control that every pruner has to beat."""

from dataclasses import dataclass
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.pruners.base import ScorePruner
from lmms_kvtp.types import FrameFeatures, FrameTokens


@dataclass(frozen=True)
class RandomTokens(ScorePruner):
    """Keeps tokens drawn without replacement, each frame on its own.

    The draw depends on `seed`, the video's key and the frame alone: it is the same on any device, in any order of
    questions, and a larger budget keeps what a smaller one kept.
    """

    seed: int = 0
    """Seed of the draw; `lmms-eval` gives the run's `seed` where none is set."""

    def score(self, tokens: FrameTokens, features: FrameFeatures) -> Float[Tensor, "T N"]:
        """Draw a number for each token."""
        generator = torch.Generator().manual_seed(crc32(f"{self.seed}:{tokens.key}".encode()))
        return torch.rand(tokens.num_frames, tokens.capacity, generator=generator, dtype=torch.float64)
