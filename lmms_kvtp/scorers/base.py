"""Interface of frame scorers."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost.meter import undeclared_flops
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.questions import Question
from lmms_kvtp.types import FrameFeatures


class FrameScorer(ABC):
    """Says how relevant each frame is to a question."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `FrameFeatures` that this scorer reads; encoder and pipeline give only these."""
    query_aware: ClassVar[bool] = True
    """Scores depend on the question."""
    paper: ClassVar[str] = ""
    """Where the method comes from: a name and an arXiv id."""
    training_free: ClassVar[bool] = True
    """Nothing in it was trained for pruning."""

    @abstractmethod
    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Score the frames; higher is more relevant, any real scale.

        Args:
            features: what is known of the frames, with the fields named in `needs`.
            question: what is asked.
            encoder: the one that made `features`; it embeds the question's text in the same space.
        """

    def flops(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> int | None:
        """Count the operations of `score` (see `lmms_kvtp.cost.flops`), where it multiplies matrices.

        Where `features` hold the question's text, the encoder has embedded it before, and that is not counted again.
        None, as of a scorer outside this package that leaves this method out: counted while it runs.
        """
        return undeclared_flops(self)
