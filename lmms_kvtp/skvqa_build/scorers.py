"""Step 4, the relevance of each clip: from a chat model, a local language model, or text or image similarity."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.files import content_key, loading
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
TEXT_SCALE = 20.0
"""Logit of a cosine of 1 of two texts: the inverse temperature that such models are trained with."""


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

    name: str
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
    def name(self) -> str:  # type: ignore[override]
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


@dataclass(frozen=True, eq=False)
class OneByOne(ClipScorer):
    """Scores one question after the other, and stores each at once."""

    name: str
    checkpoint: str
    """Folder or hub id of the weights."""
    rate: Callable[[Scoreable], tuple[float, ...]]
    """Function that scores the clips for one question; VideoError where the video cannot be read."""
    needs_captions: bool = True
    uses_prompts: bool = False
    encoder: Siglip | None = None
    """Image-text model that scores frames; None where captions are scored."""

    @property
    def weights(self) -> str:
        """Fingerprint of the encoder's weights: an index by them suits a method that scores with them."""
        return of_encoder(self.encoder) if self.encoder else ""

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


def language_model(model: LocalModel) -> OneByOne:
    """A local checkpoint that rates one caption at a time: without room, or skill, for all in one prompt."""

    def rate(question: Scoreable) -> tuple[float, ...]:
        return tuple(model.rate(shortened(caption), question.text) for caption in question.captions)

    return OneByOne(f"{model.name} one-by-one", model.checkpoint, rate, uses_prompts=True)


def text_similarity(pretrained: str = "sentence-transformers/all-MiniLM-L6-v2") -> OneByOne:
    """Compares caption and question by a model of sentence-transformers (`pip install lmms-kvtp[text]`)."""

    @cache
    def model() -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ValueError("scorer text needs sentence-transformers: pip install sentence-transformers") from error
        with loading(f"no sentence-transformers model at {pretrained}; --scorer text:FOLDER reads one of this machine"):
            return SentenceTransformer(pretrained)

    def rate(question: Scoreable) -> tuple[float, ...]:
        texts = [question.text, *map(shortened, question.captions)]
        vectors = model().encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return below_best([float(TEXT_SCALE * (vector @ vectors[0])) for vector in vectors[1:]])

    return OneByOne(f"{pretrained} x{TEXT_SCALE:g}", pretrained, rate)


def image_similarity(encoder: Siglip) -> OneByOne:
    """Averages SigLIP logits over the frames of a clip: no captions, no training, no language model."""

    @lru_cache(maxsize=1)  # for the questions on one video, which follow each other
    def features(clips: Clips) -> FrameFeatures:
        needs, pool = frozenset({"image"}), GridPool("average", (1, 1))
        return FrameFeatures.cat([encoder.encode(clips.frames(n), needs, pool) for n in range(len(clips.bounds))])

    def rate(question: Scoreable) -> tuple[float, ...]:
        image = features(question.clips).image
        assert image is not None
        logits = encoder.logits(image, encoder.encode_text([question.text])).amax(dim=0)
        return below_best([float(logits[first : last + 1].mean()) for first, last in question.clips.bounds])

    return OneByOne(encoder.pretrained, encoder.pretrained, rate, needs_captions=False, encoder=encoder)


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
