"""Relevance as an image-text model sees it: how well a frame matches the question."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.questions import Question, question_text
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.types import FrameFeatures


@dataclass(frozen=True)
class Similarity(FrameScorer):
    """Image-text logits of frame and question; of a question in several pieces, the best piece counts.

    Source: KVTP (arXiv 2503.10742), eq. 2, as its release scores frames at inference.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    paper: ClassVar[str] = "KVTP, arXiv 2503.10742"

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Compare each frame with the question.

        Raises:
            ValueError: the question has no text.
        """
        assert features.image is not None
        text = encoder.encode_text([question_text(question)])
        return encoder.logits(features.image, text).amax(dim=0)

    def reader(self, encoder: FrameEncoder) -> FrameEncoder:
        """The encoder."""
        return encoder

    def flops(self, num_frames: int, question: Question, encoder: FrameEncoder) -> int | None:
        """Text tower and cosines."""
        return encoder.relevance_flops(num_frames, [question_text(question)])
