"""KVTP's relevance without a second vision tower."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.questions import Question, question_text
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.scorers.parts.fusion import FusionHead, head_beside, in_context
from lmms_kvtp.types import FrameFeatures


@dataclass(frozen=True)
class Shared(FrameScorer):
    """Relevance by a light head on the tower that the language model runs anyway, in the context of clip and video.

    Implies `encoder=tower`; give the folder that training wrote as `encoder.pretrained`. The embedded model's own is
    shipped, and read where none is given. At LLaVA-Video-7B it adds less than 0.1 % to the operations of an answer,
    where KVTP's own predictor adds 15 % (docs/predictor.md).

    Source: the objective and the fusion head are those of KVTP (arXiv 2503.10742); sharing the tower is ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    paper: ClassVar[str] = "objective of KVTP, arXiv 2503.10742"
    goes_with: ClassVar[str] = "tower"
    training_free: ClassVar[bool] = False

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Compare each frame in its context with the question.

        Raises:
            ValueError: the question has no text, or the encoder's checkpoint is missing or damaged.
        """
        assert features.image is not None
        text = encoder.encode_text([question_text(question)])
        return in_context(features.image, text, encoder.logits, self._head(encoder))

    @cached_property
    def _head(self) -> Callable[[FrameEncoder], FusionHead]:
        """Reads the files of an encoder's head once."""
        return lru_cache(1)(head_beside)

    def reader(self, encoder: FrameEncoder) -> FrameEncoder:
        """The encoder."""
        return encoder

    def flops(self, num_frames: int, question: Question, encoder: FrameEncoder) -> int | None:
        """Text side and cosines, with the head for three views of each frame."""
        return encoder.relevance_flops(num_frames, [question_text(question)], views=3)
