"""What a method is examined on, and what it does there; everything is computed once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmms_kvtp.allocators.uniform import Uniform as EqualBudgets
from lmms_kvtp.doctor.expected import Expected
from lmms_kvtp.encode import Encoded, encode_once
from lmms_kvtp.layer_pruning.none import NoLayerPruning
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Prepared, prepare
from lmms_kvtp.pruners.none import Unpruned
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.questions import Question
from lmms_kvtp.run.answerer import Answerer, unrecorded
from lmms_kvtp.run.asks import ask_about
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.scorers.uniform import Uniform as SameRelevance
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM

LOW = 0.1
"""Kept at the low budget, or the method's own ratio where that is lower."""
OPTIONS = GenerationOptions(max_new_tokens=16)


@dataclass(frozen=True)
class Asked:
    """A question of the exam."""

    question: Question
    target: str = ""
    """The right letter; empty where it is not known."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What one method made of one question."""

    prepared: Prepared
    logits: Float[Tensor, " V"]
    """Of the first token."""


def unpruned(method: Method) -> Method:
    """All tokens, without scorer, in place of `method`."""
    return replace(
        method,
        scorer=SameRelevance(),
        allocator=EqualBudgets(),
        pruner=Unpruned(),
        layer_pruning=NoLayerPruning(),
        keep_ratio=1.0,
    )


def random_control(method: Method) -> Method:
    """Random tokens of every frame, as many as `method` keeps."""
    return replace(unpruned(method), pruner=RandomTokens(), keep_ratio=method.keep_ratio)


@dataclass(frozen=True, eq=False)
class Exam:
    """A model, a method, and some questions on some videos."""

    vlm: VideoVLM
    method: Method
    videos: Sequence[Video]
    questions: Sequence[Sequence[Asked]]
    """Of each video."""
    chosen_letter: Callable[[str, Sequence[str]], str | None]
    """Reads the letter out of an answer; None where there is none."""
    reference: Callable[[VideoVLM], tuple[bool | None, str]]
    """Holds the unpruned model against another implementation: passed (None: there is none), and what was seen."""
    expected: Expected | None = None
    """What the unpruned model reached on such questions before; None where nobody measured."""

    @cached_property
    def low(self) -> Method:
        """The method at a low budget; as it is, where all tokens enter and layers drop some of them."""
        ratio = self.method.keep_ratio
        return self.method if ratio == 1 else replace(self.method, keep_ratio=min(ratio, LOW))

    @property
    def keeps_everything(self) -> bool:
        """The method is the unpruned model, and says so."""
        return self.method.keep_ratio == 1 and not self.method.layer_pruning.stages()

    @cached_property
    def whole(self) -> Method:
        """The method with room for every token, and nothing dropped between layers."""
        return replace(self.method, keep_ratio=1.0, layer_pruning=NoLayerPruning())

    @cached_property
    def full(self) -> Method:
        """The unpruned model."""
        return unpruned(self.method)

    @cached_property
    def control(self) -> Method:
        """Random tokens at the method's ratio."""
        return random_control(self.method)

    @cached_property
    def encoded(self) -> list[Encoded]:
        """Videos, with the features that the method reads."""
        return [encode_once(self.vlm, [self.method], video)[0] for video in self.videos]

    @cached_property
    def pairs(self) -> list[tuple[Encoded, Asked]]:
        """Each question with its video."""
        return [
            (video, asked) for video, questions in zip(self.encoded, self.questions, strict=True) for asked in questions
        ]

    def run(self, method: Method, encoded: Encoded, asked: Asked) -> Result:
        """Prompt and logits of one question."""
        ready = prepare(self.vlm, method, [encoded], asked.question)
        return Result(ready, self.vlm.next_token_logits(ready.prompt, method.layer_pruning.stages()))

    def results(self, method: Method) -> list[Result]:
        """Of the first question on each video, by a method; computed anew."""
        return [self.run(method, video, asked[0]) for video, asked in zip(self.encoded, self.questions, strict=True)]

    @cached_property
    def base(self) -> list[Result]:
        """Of the unpruned model, before the method has run."""
        return self.results(self.full)

    @cached_property
    def pruned(self) -> list[Result]:
        """Of the method at a low budget; the unpruned model has run before."""
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
        """Of the method at its own ratio."""
        return self.answers(self.method)

    @cached_property
    def base_answers(self) -> list[str]:
        """Of the unpruned model."""
        return self.answers(self.full)

    def letters(self, texts: Sequence[str]) -> list[str | None]:
        """Read out of answers."""
        return [self.chosen_letter(text, asked.options) for text, (_, asked) in zip(texts, self.pairs, strict=True)]

    def right(self, texts: Sequence[str]) -> list[bool]:
        """Whether each answer has the right letter."""
        found = zip(self.letters(texts), self.pairs, strict=True)
        return [letter == asked.target for letter, (_, asked) in found]

    def hooks(self) -> int:
        """Hooks on the language model's layers and what is inside them."""
        return sum(_hooks(module) for layer in self.vlm.layers for module in layer.modules())


def _hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def equal(first: Sequence[Result], second: Sequence[Result]) -> bool:
    """Bit for bit the same logits."""
    return all(torch.equal(a.logits, b.logits) for a, b in zip(first, second, strict=True))


def divergence(first: Result, second: Result) -> float:
    """KL divergence (nats) of the first token, first from second."""
    logs = [result.logits.float().log_softmax(dim=0) for result in (first, second)]
    return float((logs[0].exp() * (logs[0] - logs[1])).sum().clamp_min(0))
