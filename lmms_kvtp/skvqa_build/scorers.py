"""Step 4, the relevance of each clip: from a chat model, a local language model, or text or image similarity."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.files import content_key
from lmms_kvtp.questions import MOST_RELEVANT
from lmms_kvtp.run.source import of_encoder
from lmms_kvtp.skvqa.entry import DIGITS
from lmms_kvtp.skvqa_build.ask import Answered, Failure, ask_all, read_scores
from lmms_kvtp.skvqa_build.chat import ChatModel, ChatRequest
from lmms_kvtp.skvqa_build.local import LocalModel
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.store import Store, weights_of
from lmms_kvtp.skvqa_build.videos import Clips
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import VideoError

MAX_CAPTION = 2000
"""Characters of a caption that scorers read; a runaway caption would crowd out the others."""


@dataclass(frozen=True)
class Scoreable:
    """A question on a video that is sampled and, where the scorer needs it, captioned."""

    question_id: str
    text: str
    """Refined question."""
    clips: Clips
    captions: tuple[str, ...] = ()


class ClipScorer(ABC):
    """Says from 0 to 5 how relevant each clip of a video is to a question."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the index and in the store's keys."""

    needs_captions: bool
    uses_prompts: bool

    @property
    def weights(self) -> str:
        """Fingerprint of the image-text model that scores frames; empty where captions are scored."""
        return ""

    @abstractmethod
    def score(self, questions: Iterable[Scoreable], store: Store) -> Answered[tuple[float, ...]]:
        """Score all clips by question id, from the store where it has them; questions on one video come in a row."""


@dataclass(frozen=True, eq=False)
class ChatScorer(ClipScorer):
    """Has a chat model, local or not, score all captions of a video in one prompt, as the paper does with GPT-4o.

    It sees in which order the clips come, which questions with "before" or "after" need.
    """

    chat: ChatModel
    needs_captions = True
    uses_prompts = True

    @property
    def name(self) -> str:
        """The chat model."""
        return self.chat.name

    def score(self, questions: Iterable[Scoreable], store: Store) -> Answered[tuple[float, ...]]:
        """Score all clips; see `ClipScorer`."""
        bounds: dict[str, list[tuple[int, int]]] = {}

        def requests() -> Iterator[ChatRequest]:
            for question in questions:
                bounds[question.question_id] = question.clips.bounds
                yield ChatRequest(step="score", text=scoring_prompt(question), subject=question.question_id)

        def parse(request: ChatRequest, text: str) -> tuple[float, ...]:
            return read_scores(text, bounds[request.subject])

        return ask_all(self.chat, store, requests(), parse)


class OneByOne(ClipScorer):
    """Scores one question after the other, and stores each at once."""

    @property
    def checkpoint(self) -> str:
        """Folder or hub id of the weights."""
        return self.name

    def score(self, questions: Iterable[Scoreable], store: Store) -> Answered[tuple[float, ...]]:
        """Score all clips; see `ClipScorer`."""
        answers: dict[str, tuple[float, ...]] = {}
        failures = []
        identity = (self.name, weights_of(self.checkpoint))
        for question in questions:
            key = content_key("clips", identity, question.clips.key, question.text, question.captions)
            known = store.get(key)
            if known is None:
                try:
                    known = json.dumps(self.rate(question))
                except VideoError as error:
                    failures.append(Failure("score", question.question_id, str(error)))
                    continue
                store.put(key, known, "score", self.name)
            answers[question.question_id] = tuple(map(float, json.loads(known)))
        return Answered(answers, tuple(failures))

    @abstractmethod
    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """Score the clips for one question; VideoError where the video cannot be read."""


@dataclass(frozen=True, eq=False)
class LanguageModel(OneByOne):
    """Has a local checkpoint rate one caption at a time: for models without room, or skill, for all in one prompt."""

    model: LocalModel
    needs_captions = True
    uses_prompts = True

    @property
    def name(self) -> str:
        """The checkpoint, and that it saw one caption at a time."""
        return f"{self.model.name} one-by-one"

    @property
    def checkpoint(self) -> str:
        """Folder or hub id of the model."""
        return self.model.checkpoint

    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """Score the clips for one question."""
        return tuple(self.model.rate(shortened(caption), question.text) for caption in question.captions)


@dataclass(frozen=True, eq=False)
class TextSimilarity(OneByOne):
    """Compares caption and question by a model of sentence-transformers (`pip install lmms-kvtp[text]`)."""

    pretrained: str = "sentence-transformers/all-MiniLM-L6-v2"
    scale: float = 20.0
    """Logit of a cosine of 1: the inverse temperature that such models are trained with."""
    needs_captions = True
    uses_prompts = False

    @property
    def name(self) -> str:
        """Checkpoint and scale."""
        return f"{self.pretrained} x{self.scale:g}"

    @property
    def checkpoint(self) -> str:
        """The checkpoint, as given."""
        return self.pretrained

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ValueError("scorer text needs sentence-transformers: pip install sentence-transformers") from error
        return SentenceTransformer(self.pretrained)

    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """Score the clips for one question."""
        texts = [question.text, *map(shortened, question.captions)]
        vectors = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return below_best([float(self.scale * (vector @ vectors[0])) for vector in vectors[1:]])


@dataclass(frozen=True, eq=False)
class ImageSimilarity(OneByOne):
    """Averages SigLIP logits over the frames of a clip: no captions, no training, no language model."""

    encoder: Siglip
    needs_captions = False
    uses_prompts = False
    _last: list[tuple[str, FrameFeatures]] = field(default_factory=list, repr=False)
    """Key and features of the last video, for the questions on it that follow."""

    @property
    def name(self) -> str:
        """The checkpoint."""
        return self.encoder.pretrained

    @property
    def weights(self) -> str:
        """Fingerprint of the encoder's weights: an index by them suits a method that scores with them."""
        return of_encoder(self.encoder)

    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """Score the clips for one question."""
        features = self._features(question.clips)
        assert features.image is not None
        logits = self.encoder.logits(features.image, self.encoder.encode_text([question.text])).amax(dim=0)
        bounds = question.clips.bounds
        return below_best([float(logits[first : last + 1].mean()) for first, last in bounds])

    def _features(self, clips: Clips) -> FrameFeatures:
        if not self._last or self._last[0][0] != clips.key:
            self._last.clear()
            needs, pool = frozenset({"image"}), GridPool("average", (1, 1))
            parts = [self.encoder.encode(clips.frames(clip), needs, pool) for clip in range(len(clips.bounds))]
            self._last.append((clips.key, FrameFeatures.cat(parts)))
        return self._last[0][1]


def below_best(logits: Sequence[float]) -> tuple[float, ...]:
    """Shift logits to the scale of the labels: the best clip gets 5, any other 5 minus its distance, at least 0.

    Softmax does not see a common shift, so the rates are those of the logits themselves, cut at 5 below the best.
    """
    best = max(logits)
    return tuple(round(max(0.0, MOST_RELEVANT - (best - logit)), DIGITS) for logit in logits)


def shortened(caption: str) -> str:
    """Cut a caption to MAX_CAPTION characters."""
    return caption if len(caption) <= MAX_CAPTION else caption[: MAX_CAPTION - 4] + " ..."


def scoring_prompt(question: Scoreable) -> str:
    """Write the whole text of the request."""
    described = zip(question.clips.bounds, question.captions, strict=True)
    clips = "\n".join(f"{first}-{last}: {shortened(caption)}" for (first, last), caption in described)
    return prompt("score", clips=clips, question=question.text)
