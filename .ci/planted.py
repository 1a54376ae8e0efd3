"""Two broken parts. The accuracy band of check_band.py must refuse them, or it would let real bugs pass."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class Shuffled(RandomTokens):
    """Keeps as many tokens as it should, but hands them over in the wrong order."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """The right number of tokens, each in another one's place."""
        packed = super().prune(tokens, features, budgets)
        order = torch.randperm(len(packed.embeds), generator=torch.Generator().manual_seed(0))
        return replace(packed, embeds=packed.embeds[order])


@dataclass(frozen=True)
class Inverted(KVTP):
    """Takes the frames that fit the question least for the best."""

    fusion: bool = False

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Relevance with the wrong sign."""
        return -super().score(features, question, encoder)
