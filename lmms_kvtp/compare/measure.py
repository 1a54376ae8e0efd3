"""Answers of several methods to each question, and how far they are from those with all tokens."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.doctor.exam import divergence
from lmms_kvtp.files import from_json, text_lines
from lmms_kvtp.layer_pruning.base import Stage
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Answer, Prepared
from lmms_kvtp.questions import Question, refine
from lmms_kvtp.rendering import first_few
from lmms_kvtp.run.answerer import Answerer, plain_errors, unrecorded
from lmms_kvtp.run.asks import Ask, ask_about
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.types import GenerationOptions, PackedTokens
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM

FULL = "all tokens"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileQuestion:
    """A question of the user's file."""

    line: int
    video: Path
    question: str
    answer: str | None


def read(path: Path) -> list[FileQuestion]:
    """Read a file of questions, and make sure that every video is there before any model loads.

    Each line is a JSON object with `video` (a path, from the file's folder if relative), `question` (all of the text
    that the model gets) and, where known, `answer`; empty lines are skipped. ValueError names a line that is not, or
    that there is none; FileNotFoundError lists missing videos.
    """
    asked = []
    for number, line in text_lines(path):
        try:
            row = from_json(line)
            video, question, answer = row["video"], row["question"], row.get("answer")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}:{number} is no object with video and question: {error!r}") from error
        if not (isinstance(video, str) and isinstance(question, str) and question.strip()):
            raise ValueError(f"{path}:{number}: video and question must be texts, and the question not empty")
        asked.append(FileQuestion(number, path.parent / video, question, None if answer is None else str(answer)))
    if not asked:
        raise ValueError(f"{path} holds no question; give a JSON object with video and question in each line")
    missing = sorted({str(one.video) for one in asked if not one.video.exists()})
    if missing:
        raise FileNotFoundError(f"{path} names videos that are not there: {first_few(missing, 5)}")
    return asked


@dataclass(frozen=True)
class MethodOutcome:
    """One question, answered with one method."""

    asked: FileQuestion
    method: str
    text: str
    full_text: str
    """Answer with all tokens."""
    kl: float
    """KL divergence of the first token's distribution from the one with all tokens, in nats."""
    seconds_to_first: float
    """Seconds of work before the second token, with stages that questions on a video share divided among them."""
    tokens_kept: int
    tokens_before: int
    peak_bytes: int | None

    @property
    def agrees(self) -> bool:
        """Whether the answer is that with all tokens, but for case, spaces and punctuation."""
        return plain(self.text) == plain(self.full_text)

    @property
    def right(self) -> bool | None:
        """Whether the answer is the file's, or begins with its letter; None where the file has no answer."""
        if self.asked.answer is None:
            return None
        given, wanted = plain(self.text), plain(self.asked.answer)
        return given == wanted or (len(wanted) == 1 and given.split()[:1] == [wanted])


@dataclass(frozen=True)
class Kept:
    """What a picture of an outcome shows."""

    video: Video
    packed: PackedTokens


def measure(
    vlm: VideoVLM,
    methods: Mapping[str, Method],
    asked: Sequence[FileQuestion],
    frames: FrameOptions,
    max_new_tokens: int,
) -> Iterator[tuple[MethodOutcome, Kept]]:
    """Answer every question with every method; a video is decoded and encoded once, the first one twice, to warm up.

    FULL must be among `methods`, which are by the name of their row, and its outcomes come first. Questions on one
    video are answered together. VideoError where a video cannot be read, PromptTooLongError where a prompt is too long.
    """
    order = [FULL, *(name for name in methods if name != FULL)]
    run = RunOptions(share_prefix=False)  # each answer's time is that of a question asked alone
    watch = Prompts(vlm, [methods[name].layer_pruning.stages() for name in order])
    answerer = Answerer([unrecorded(vlm, methods[name], run) for name in order], frames, watch)
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    by_video: dict[Path, dict[int, FileQuestion]] = {}
    for number, one in enumerate(asked):
        by_video.setdefault(one.video, {})[number] = one
    for count, (path, questions) in enumerate(by_video.items(), start=1):
        log.info("%d of %d videos: %s, %d questions", count, len(by_video), path.name, len(questions))
        video, asks = load_video(path, frames), {}
        for number, one in questions.items():
            question = Question(one.question, refined=refine(one.question), doc_key=f"line {one.line}")
            asks[number] = ask_about([video], question, options)
        if count == 1:  # what loads and compiles on first use is in no time that is reported
            first = next(iter(asks))
            with plain_errors():
                for _ in Answerer(answerer.lanes, frames).answer_all({first: asks[first]}):
                    _forget(answerer)
        base: dict[int, tuple[Float[Tensor, " V"], str]] = {}
        with plain_errors():
            for lane, number, answer in answerer.answer_all(asks):
                logits, packed = watch.last
                full, text = base.setdefault(number, (logits, answer.text))
                kl = divergence(full, logits)
                yield outcome_of(questions[number], order[lane], answer, kl, text), Kept(video, packed)
                _forget(answerer)


def _forget(answerer: Answerer) -> None:
    """Let each method pay for reading the question, although the encoder is shared."""
    for lane in answerer.lanes:
        lane.built.method.encoder.forget_texts()


@dataclass
class Prompts:
    """Reads the first token's logits of each prompt, before it is answered."""

    vlm: VideoVLM
    stages: Sequence[Sequence[Stage]]
    """Layer pruning of each lane."""
    last: tuple[Float[Tensor, " V"], PackedTokens] = field(init=False)
    """Logits of the last prompt, and the tokens in it."""

    @torch.inference_mode()
    def __call__(self, lane: int, ask: Ask, ready: Prepared) -> None:
        """Read one prompt."""
        logits = self.vlm.next_token_logits(ready.prompt, self.stages[lane])
        self.last = logits.float().cpu(), ready.packed[0]


def outcome_of(one: FileQuestion, name: str, answer: Answer, kl: float, full_text: str) -> MethodOutcome:
    """What is told of one answer."""
    cost, text = answer.cost, answer.text
    seconds = cost.seconds_total - cost.seconds.get("generate", 0.0)
    counts = (cost.tokens_kept, cost.tokens_before, cost.peak_bytes)
    return MethodOutcome(one, name, text, full_text, kl, seconds, *counts)


def plain(text: str) -> str:
    """The words of an answer, without case and punctuation: `(B) a cat.` becomes `b a cat`, and `B.` becomes `b`."""
    return " ".join(re.findall(r"\w+", text.casefold()))
