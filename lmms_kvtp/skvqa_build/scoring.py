"""The interface of what gives clips their relevance."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmms_kvtp.questions import MOST_RELEVANT
from lmms_kvtp.skvqa.entry import DIGITS
from lmms_kvtp.skvqa_build.ask import Asked
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import Clips

MAX_CAPTION = 2000
"""Characters of a caption that scorers read; a runaway caption would crowd out the others."""


@dataclass(frozen=True)
class Scoreable:
    """A question on a video that is sampled and, where the scorer needs it, captioned."""

    question_id: str
    text: str
    """The refined question."""
    clips: Clips
    captions: tuple[str, ...] = ()


class ClipScorer(ABC):
    """Says from 0 to 5 how relevant each clip of a video is to a question."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For the index and the cache."""

    needs_captions: bool
    uses_prompts: bool

    @abstractmethod
    def score(self, questions: Iterable[Scoreable], store: Store) -> Asked[tuple[float, ...]]:
        """Scores by question id, from the store where it has them; questions on one video stand together."""


def below_best(logits: Sequence[float]) -> tuple[float, ...]:
    """Logits on the scale of the labels: the best clip gets 5, any other 5 minus its distance, at least 0.

    Softmax does not see a common shift, so rates are those of the logits themselves, cut at 5 below the best.
    """
    best = max(logits)
    return tuple(round(max(0.0, MOST_RELEVANT - (best - logit)), DIGITS) for logit in logits)


def shortened(caption: str) -> str:
    """A caption of at most MAX_CAPTION characters."""
    return caption if len(caption) <= MAX_CAPTION else caption[: MAX_CAPTION - 4] + " ..."
