"""An exam: a method on some questions, and what it makes of them; every result is computed once.

`synthetic_exam` is one on the synthetic benchmark's videos, which any model can watch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.allocators.uniform import EqualBudgets
from lmms_kvtp.doctor.expected import Expected
from lmms_kvtp.doctor.reference import reference_logits
from lmms_kvtp.embedded import cache
from lmms_kvtp.embedded.dataset import build
from lmms_kvtp.embedded.questions import INSTRUCTION, LETTERS
from lmms_kvtp.encode import Encoded, encode_once
from lmms_kvtp.layer_pruning.none import NoLayerPruning
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Prepared, prepare
from lmms_kvtp.pruners.none import Unpruned
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.questions import Question, chosen_letter
from lmms_kvtp.run.answerer import Answerer, unrecorded
from lmms_kvtp.run.asks import ask_about
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.scorers.uniform import SameRelevance
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM

LOW = 0.1
"""Share kept at the low budget, unless the method's own ratio is lower."""
OPTIONS = GenerationOptions(max_new_tokens=16)


@dataclass(frozen=True)
class ExamQuestion:
    """A question of the exam, with its answer if that is known."""

    question: Question
    target: str = ""
    """Right letter; empty where it is not known."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What one method made of one question."""

    prepared: Prepared
    logits: Float[Tensor, " V"]
    """Logits of the first token."""


@dataclass(frozen=True, eq=False)
class Exam:
    """A model, a method, and some questions on some videos."""

    vlm: VideoVLM
    method: Method
    videos: Sequence[Video]
    questions: Sequence[Sequence[ExamQuestion]]
    """Questions on each video."""
    expected: Expected | None = None
    """Accuracy of the unpruned model on such questions before; None where it was not measured."""

    @cached_property
    def low(self) -> Method:
        """The method at a low budget; unchanged where all tokens enter and layers drop some of them."""
        ratio = self.method.keep_ratio
        return self.method if ratio == 1 else replace(self.method, keep_ratio=min(ratio, LOW))

    @property
    def keeps_everything(self) -> bool:
        """Whether the method is the unpruned model, and says so."""
        return self.method.keep_ratio == 1 and not self.method.layer_pruning.stages()

    @cached_property
    def whole(self) -> Method:
        """The method with room for every token, and nothing dropped between layers."""
        return replace(self.method, keep_ratio=1.0, layer_pruning=NoLayerPruning())

    @cached_property
    def full(self) -> Method:
        """The unpruned model, with the method's encoder."""
        return replace(self.whole, scorer=SameRelevance(), allocator=EqualBudgets(), pruner=Unpruned())

    @cached_property
    def control(self) -> Method:
        """Random tokens of every frame, as many as the method keeps."""
        return replace(self.full, pruner=RandomTokens(), keep_ratio=self.method.keep_ratio)

    @cached_property
    def encoded(self) -> list[Encoded]:
        """Encoded videos, with the features that the method reads."""
        return [encode_once(self.vlm, [self.method], video)[0] for video in self.videos]

    @cached_property
    def pairs(self) -> list[tuple[Encoded, ExamQuestion]]:
        """Each question with its video."""
        found = zip(self.encoded, self.questions, strict=True)
        return [(video, asked) for video, questions in found for asked in questions]

    def run(self, method: Method, encoded: Encoded, asked: ExamQuestion) -> Result:
        """Prompt and logits of one question."""
        ready = prepare(self.vlm, method, [encoded], asked.question)
        return Result(ready, self.vlm.next_token_logits(ready.prompt, method.layer_pruning.stages()))

    def results(self, method: Method) -> list[Result]:
        """Results of a method on the first question of each video; computed anew."""
        return [self.run(method, video, asked[0]) for video, asked in zip(self.encoded, self.questions, strict=True)]

    @cached_property
    def base(self) -> list[Result]:
        """Results of the unpruned model, before the method has run."""
        return self.results(self.full)

    @cached_property
    def pruned(self) -> list[Result]:
        """Results of the method at a low budget; the unpruned model has run before."""
        assert self.base
        return self.results(self.low)

    def answers(self, method: Method) -> list[str]:
        """Answers of a method to all questions."""
        asks = {n: ask_about([video], asked.question, OPTIONS) for n, (video, asked) in enumerate(self.pairs)}
        alone = RunOptions(share_prefix=False)  # each answer is made whole
        made = Answerer([unrecorded(self.vlm, method, alone)], FrameOptions()).answer_all(asks)
        texts = {number: answer.text for _, number, answer in made}
        return [texts[number] for number in asks]

    @cached_property
    def own_answers(self) -> list[str]:
        """Answers of the method at its own ratio."""
        return self.answers(self.method)

    @cached_property
    def base_answers(self) -> list[str]:
        """Answers of the unpruned model."""
        return self.answers(self.full)

    def letters(self, texts: Sequence[str]) -> list[str | None]:
        """The letter of each answer; None where it has none."""
        return [chosen_letter(text, asked.options) for text, (_, asked) in zip(texts, self.pairs, strict=True)]

    def right(self, texts: Sequence[str]) -> list[bool]:
        """Whether each answer has the right letter."""
        found = zip(self.letters(texts), self.pairs, strict=True)
        return [letter == asked.target for letter, (_, asked) in found]

    def hooks(self) -> int:
        """Number of hooks on the language model's layers and what is inside them."""
        modules = [module for layer in self.vlm.layers for module in layer.modules()]
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def equal(first: Sequence[Result], second: Sequence[Result]) -> bool:
    """Whether logits are the same, bit for bit."""
    return all(torch.equal(a.logits, b.logits) for a, b in zip(first, second, strict=True))


def divergence(first: Float[Tensor, " V"], second: Float[Tensor, " V"]) -> float:
    """KL(first || second) of next-token distributions, given by their logits, in nats."""
    p, q = (logits.cpu().double().log_softmax(dim=0) for logits in (first, second))
    return float((p.exp() * (p - q)).sum().clamp_min(0.0))


QUESTIONS = 4
"""Questions on each video."""


def synthetic_exam(vlm: VideoVLM, method: Method, videos: int, frames: int, expected: Expected | None = None) -> Exam:
    """An exam on the first videos of the test split, which are made now if the cache does not hold them.

    `frames` are the most of each; `expected` is the accuracy of the unpruned model on this split before. ValueError
    where there are no videos, CacheError where they cannot be written.
    """
    if videos < 1:
        raise ValueError(f"videos={videos}: an exam needs at least one")
    asked: dict[str, list[ExamQuestion]] = {}
    loaded: dict[str, Video] = {}
    for doc in build("test", videos, per_video=QUESTIONS):
        key = str(doc["video_id"])
        asked.setdefault(key, []).append(_asked(doc))
        if key not in loaded:
            path = cache.video(str(doc["split"]), cast(int, doc["seed"]))
            rate = None if vlm.frames.fps is None else 1.0
            loaded[key] = load_video(str(path), replace(vlm.frames, max_frames_num=frames, fps=rate))
    return Exam(vlm, method, list(loaded.values()), [asked[key] for key in loaded], expected)


def reference(vlm: VideoVLM) -> tuple[bool | None, str]:
    """Compare the unpruned model with transformers' own class, and with published logits where there are some.

    Returns whether they agree, None where there is no other implementation, and what was seen.
    """
    try:
        checks = reference_logits(vlm)
    except ValueError as error:
        return None, str(error)
    told = "; ".join(f"{check.name}: logits differ by at most {check.difference:.2g}" for check in checks)
    return all(check.passed for check in checks), told


def _asked(doc: dict[str, Any]) -> ExamQuestion:
    stem, options = str(doc["question"]), tuple(map(str, doc["options"]))
    lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    spans = tuple((float(start), float(end), float(score)) for start, end, score in doc["spans"])
    question = Question(
        prompt="\n".join([stem, *lettered, INSTRUCTION]),
        stem=stem,
        options=options,
        doc_key=str(doc["question_id"]),
        spans=spans,
    )
    return ExamQuestion(question, str(doc["answer"]), options)
