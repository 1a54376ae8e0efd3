"""Scorers that run here: the captioner's own language model, text similarity, and image-text similarity."""

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.files import content_key
from lmms_kvtp.skvqa_build.ask import Asked, Failure, ask, read_scores
from lmms_kvtp.skvqa_build.chat import Chat, ChatRequest
from lmms_kvtp.skvqa_build.local import LocalModel
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.scoring import ClipScorer, Scoreable, below_best, shortened
from lmms_kvtp.skvqa_build.store import Store, weights_of
from lmms_kvtp.skvqa_build.videos import Clips
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import VideoError


class OneByOne(ClipScorer):
    """Scores question after question; each is kept as soon as it is there."""

    @property
    @abstractmethod
    def checkpoint(self) -> str:
        """Folder or hub id of the weights."""

    def score(self, questions: Iterable[Scoreable], store: Store) -> Asked[tuple[float, ...]]:
        """Scores by question id; see `ClipScorer`."""
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
        return Asked(answers, tuple(failures))

    @abstractmethod
    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """The scores of one question.

        Raises:
            VideoError: the video cannot be read.
        """


@dataclass(frozen=True, eq=False)
class LanguageModel(OneByOne):
    """The language model of a local checkpoint reads each caption beside the question, without the frames."""

    model: LocalModel
    needs_captions = True
    uses_prompts = True

    @property
    def name(self) -> str:
        """The checkpoint."""
        return self.model.name

    @property
    def checkpoint(self) -> str:
        """Of the model."""
        return self.model.checkpoint

    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """The scores of one question."""
        return tuple(self.model.rate(shortened(caption), question.text) for caption in question.captions)


@dataclass(frozen=True, eq=False)
class TextSimilarity(OneByOne):
    """Cosine of caption and question, by a model of sentence-transformers (`pip install lmms-kvtp[text]`)."""

    pretrained: str = "sentence-transformers/all-MiniLM-L6-v2"
    scale: float = 20.0
    """Logits for a cosine of 1: the inverse temperature that such models are trained with."""
    needs_captions = True
    uses_prompts = False

    @property
    def name(self) -> str:
        """Checkpoint and scale."""
        return f"{self.pretrained} x{self.scale:g}"

    @property
    def checkpoint(self) -> str:
        """As given."""
        return self.pretrained

    @cached_property
    def _model(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ValueError("scorer text needs sentence-transformers: pip install sentence-transformers") from error
        return SentenceTransformer(self.pretrained)

    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """The scores of one question."""
        texts = [question.text, *map(shortened, question.captions)]
        vectors = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return below_best([float(self.scale * (vector @ vectors[0])) for vector in vectors[1:]])


@dataclass(frozen=True, eq=False)
class ImageSimilarity(OneByOne):
    """SigLIP logits of the clip's frames, averaged over the clip: no captions, no training, no language model."""

    encoder: Siglip
    needs_captions = False
    uses_prompts = False
    _last: list[tuple[str, FrameFeatures]] = field(default_factory=list, repr=False)
    """Features of the last video, for the questions on it that follow."""

    @property
    def name(self) -> str:
        """The checkpoint."""
        return self.encoder.pretrained

    @property
    def checkpoint(self) -> str:
        """Of the encoder."""
        return self.encoder.pretrained

    def rate(self, question: Scoreable) -> tuple[float, ...]:
        """The scores of one question."""
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


@dataclass(frozen=True, eq=False)
class ChatScorer(ClipScorer):
    """The paper's way, with GPT-4o there."""

    chat: Chat
    needs_captions = True
    uses_prompts = True

    @property
    def name(self) -> str:
        """The chat model."""
        return self.chat.name

    def score(self, questions: Iterable[Scoreable], store: Store) -> Asked[tuple[float, ...]]:
        """Scores by question id; see `ClipScorer`."""
        bounds: dict[str, list[tuple[int, int]]] = {}

        def requests() -> Iterator[ChatRequest]:
            for question in questions:
                bounds[question.question_id] = question.clips.bounds
                yield ChatRequest(step="score", text=scoring_prompt(question), subject=question.question_id)

        def parse(request: ChatRequest, text: str) -> tuple[float, ...]:
            return read_scores(text, bounds[request.subject])

        return ask(self.chat, store, requests(), parse)


def scoring_prompt(question: Scoreable) -> str:
    """The whole text of the request."""
    described = zip(question.clips.bounds, question.captions, strict=True)
    clips = "\n".join(f"{first}-{last}: {shortened(caption)}" for (first, last), caption in described)
    return prompt("score", clips=clips, question=question.text)
