"""Answers of several methods to each question, and how far they are from those with all tokens."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encode import Encoded, encode_once
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Answer, finish, prepare
from lmms_kvtp.questions import Question, refine
from lmms_kvtp.types import GenerationOptions, PackedTokens
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM

SHOWN = 5


@dataclass(frozen=True)
class Asked:
    """One line of the file."""

    line: int
    video: Path
    question: str
    answer: str | None


def read(path: Path) -> list[Asked]:
    """Read the file and look for every video before any model loads.

    Args:
        path: one JSON object in each line, with `video` (a path, from the file's folder if relative), `question` (all
            of the text that the model gets) and, where known, `answer`. Empty lines are skipped.

    Raises:
        ValueError: a line that is none, or no line at all; the message names it.
        FileNotFoundError: videos that are missing; the message lists some.
    """
    asked = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            asked.append(_asked(path, number, line))
    if not asked:
        raise ValueError(f"{path} holds no question; give a JSON object with video and question in each line")
    missing = sorted({str(one.video) for one in asked if not one.video.is_file()})
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise FileNotFoundError(f"{path} names videos that are not there: {', '.join(missing[:SHOWN])}{more}")
    return asked


def _asked(path: Path, number: int, line: str) -> Asked:
    try:
        row = json.loads(line)
        video, question = row["video"], row["question"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}:{number} is no object with video and question: {error!r}") from error
    if not (isinstance(video, str) and isinstance(question, str) and question.strip()):
        raise ValueError(f"{path}:{number}: video and question must be texts, and the question not empty")
    answer = row.get("answer")
    return Asked(number, path.parent / video, question, None if answer is None else str(answer))


FULL = "all tokens"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """One question, answered with one method."""

    asked: Asked
    method: str
    text: str
    full_text: str
    """The answer with all tokens."""
    kl: float
    """Of the first token's distribution from that with all tokens, in nats."""
    seconds_to_first: float
    """All that precedes the second token; stages that questions on a video share are divided among them."""
    tokens_kept: int
    tokens_before: int
    peak_bytes: int | None

    @property
    def agrees(self) -> bool:
        """The answers are the same but for case, spaces and punctuation."""
        return plain(self.text) == plain(self.full_text)

    @property
    def right(self) -> bool | None:
        """The answer is the file's, or begins with its letter; None where the file has no answer."""
        if self.asked.answer is None:
            return None
        given, wanted = plain(self.text), plain(self.asked.answer)
        return given == wanted or (len(wanted) == 1 and given.split()[:1] == [wanted])


@dataclass(frozen=True)
class Kept:
    """What is needed for a picture of an outcome."""

    video: Video
    packed: PackedTokens


def measure(
    vlm: VideoVLM, methods: Mapping[str, Method], asked: Sequence[Asked], frames: FrameOptions, max_new_tokens: int
) -> Iterator[tuple[Outcome, Kept]]:
    """Answer every question with every method; a video is decoded and encoded once, the first one twice, to warm up.

    Args:
        vlm: the model.
        methods: by the name of their row; FULL must be among them, and its outcomes come first.
        asked: in any order; questions on one video are answered together.
        frames: which of a video the model sees.
        max_new_tokens: of an answer.

    Raises:
        VideoError: a video cannot be read.
        PromptTooLongError: a prompt does not fit in the model's context.
    """
    order = [FULL, *(name for name in methods if name != FULL)]
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    videos: dict[Path, list[Asked]] = {}
    for one in asked:
        videos.setdefault(one.video, []).append(one)
    for number, (path, questions) in enumerate(videos.items(), start=1):
        log.info("%d of %d videos: %s, %d questions", number, len(videos), path.name, len(questions))
        video = load_video(path, frames)
        if number == 1:  # what loads and compiles on first use is in no time that is reported
            for name, warm in _encode(vlm, methods, order, video).items():
                _answer(vlm, methods[name], warm, questions[0], options, len(questions))
        encoded = _encode(vlm, methods, order, video)
        for one in questions:
            base: tuple[Float[Tensor, " V"], str] | None = None
            for name in order:
                logits, answer, packed = _answer(vlm, methods[name], encoded[name], one, options, len(questions))
                base = base or (logits, answer.text)
                yield _outcome(one, name, answer, divergence(base[0], logits), base[1]), Kept(video, packed)


def _encode(vlm: VideoVLM, methods: Mapping[str, Method], order: Sequence[str], video: Video) -> dict[str, Encoded]:
    """The video as each method reads it."""
    return dict(zip(order, encode_once(vlm, [methods[name] for name in order], video), strict=True))


@torch.inference_mode()
def _answer(
    vlm: VideoVLM, method: Method, visual: Encoded, one: Asked, options: GenerationOptions, count: int
) -> tuple[Float[Tensor, " V"], Answer, PackedTokens]:
    method.encoder.forget_texts()  # which another method has paid for
    question = Question(one.question, refined=refine(one.question), doc_key=f"line {one.line}")
    ready = prepare(vlm, method, [visual], question, questions_on_video=count)
    logits = vlm.next_token_logits(ready.prompt, method.layer_pruning.stages())
    [answer] = finish(vlm, method, [ready], options)
    return logits.float().cpu(), answer, ready.packed[0]


def _outcome(one: Asked, name: str, answer: Answer, kl: float, full_text: str) -> Outcome:
    cost = answer.cost
    return Outcome(
        asked=one,
        method=name,
        text=answer.text,
        full_text=full_text,
        kl=kl,
        seconds_to_first=cost.seconds_total - cost.seconds.get("generate", 0.0),
        tokens_kept=cost.tokens_kept,
        tokens_before=cost.tokens_before,
        peak_bytes=cost.peak_bytes,
    )


def divergence(full: Float[Tensor, " V"], pruned: Float[Tensor, " V"]) -> float:
    """KL(full || pruned) of next-token distributions, in nats."""
    p, q = full.double().log_softmax(dim=0), pruned.double().log_softmax(dim=0)
    return float((p.exp() * (p - q)).sum().clamp_min(0.0))


def plain(text: str) -> str:
    """What of an answer is compared: `(B) a cat.` is `b a cat`, and `B.` is `b`."""
    return " ".join(re.findall(r"\w+", text.casefold()))
