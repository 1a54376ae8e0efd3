"""The interface of frame scorers."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.questions import Question
from lmms_kvtp.types import FrameFeatures


class FrameScorer(ABC):
    """Says how relevant each frame is to a question."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `FrameFeatures` that this scorer reads; encoder and pipeline give only these."""
    query_aware: ClassVar[bool] = True
    """Scores depend on the question."""
    goes_with: ClassVar[str] = ""
    """The encoder that runs with this scorer where none is named; empty: the method's."""
    paper: ClassVar[str] = ""
    """Where the method comes from: a name and an arXiv id."""
    training_free: ClassVar[bool] = True
    """Nothing in it was trained for pruning."""

    @abstractmethod
    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Score the frames; higher is more relevant, any real scale.

        Args:
            features: of the frames, with the fields named in `needs`.
            question: what is asked.
            encoder: the one that made `features`; it embeds the question's text in the same space.
        """

    def reader(self, encoder: FrameEncoder) -> object | None:
        """What embeds the question for this scorer, which remembers it for others; None where nothing does."""
        return None

    def flops(self, num_frames: int, question: Question, encoder: FrameEncoder) -> int | None:
        """Operations of `score` on so many frames (see `lmms_kvtp.cost.flops`); None: counted while it runs."""
        return None
