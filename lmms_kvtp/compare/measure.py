"""Answers of several methods to each question, and how far they are from those with all tokens."""

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.device import find_device
from lmms_kvtp.doctor.exam import divergence
from lmms_kvtp.files import append_line, from_json, text_lines, write_whole
from lmms_kvtp.layer_pruning.base import Stage
from lmms_kvtp.leaderboard.provenance import row_name
from lmms_kvtp.pipeline import Answer, Prepared
from lmms_kvtp.questions import Question, refine
from lmms_kvtp.rendering import first_few
from lmms_kvtp.resolve import near
from lmms_kvtp.run.answerer import Answerer, Lane, plain_errors
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.build import build
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import parse_arguments
from lmms_kvtp.settings import pairs
from lmms_kvtp.types import GenerationOptions, PackedTokens
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.load import load_video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM

FULL = "all tokens"
log = logging.getLogger(__name__)


FIELDS = ("video", "question", "answer", "spans")
"""What a line of the user's file may hold."""


@dataclass(frozen=True)
class FileQuestion:
    """A question of the user's file."""

    line: int
    video: Path
    question: str
    answer: str | None
    spans: tuple[tuple[float, float, float], ...] | None = None
    """Begin and end in seconds, and score, of what bears on the question; for the scorer `oracle`."""


def read(path: Path, limit: int | None = None) -> list[FileQuestion]:
    """Read a file of questions, and make sure that every video is there before any model loads.

    Each line is a JSON object with `video` (a path, from the file's folder if relative), `question` (all of the text
    that the model gets) and, where known, `answer` and `spans`; empty lines are skipped. ValueError names a line that
    is not, or that there is none; FileNotFoundError lists missing videos. `limit`: only the first so many.
    """
    asked = []
    for number, line in list(text_lines(path))[:limit]:
        try:
            row = from_json(line)
            video, question, answer = row["video"], row["question"], row.get("answer")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}:{number} is no object with video and question: {error!r}") from error
        for name in row:
            if name not in FIELDS:
                raise ValueError(f"{path}:{number} has an unknown field {name!r}; {near(name, list(FIELDS))}")
        if not (isinstance(video, str) and isinstance(question, str) and question.strip()):
            raise ValueError(f"{path}:{number}: video and question must be texts, and the question not empty")
        given = row.get("spans")
        try:
            spans = None if given is None else tuple((float(a), float(b), float(c)) for a, b, c in given)
        except (TypeError, ValueError) as odd:
            raise ValueError(f"{path}:{number}: spans are lists of begin, end and score, in seconds: {odd}") from odd
        told = None if answer is None else str(answer)
        asked.append(FileQuestion(number, path.parent / video, question, told, spans))
    if not asked:
        raise ValueError(f"{path} holds no question; give a JSON object with video and question in each line")
    missing = sorted({str(one.video) for one in asked if not one.video.exists()})
    if missing:
        raise FileNotFoundError(f"{path} names videos that are not there: {first_few(missing, 5)}")
    return asked


def read_outcomes(path: Path) -> "dict[str, MethodOutcome]":
    """Read the outcomes of an earlier run by their keys, but for failures, torn lines and those of other versions."""
    found = {}
    for _, line in text_lines(path) if path.is_file() else ():
        with suppress(ValueError, KeyError, TypeError):
            outcome = MethodOutcome.from_row(from_json(line))
            if outcome.error is None:
                found[outcome.key] = outcome
    return found


Picture = tuple[float, int, str]
"""Seconds, kept tokens, and a JPEG in base64 of a frame."""


@dataclass(frozen=True)
class MethodOutcome:
    """One question, answered with one method."""

    asked: FileQuestion
    method: str
    text: str
    full_text: str
    """Answer with all tokens."""
    kl: float | None
    """KL divergence of the first token's distribution from the one with all tokens, in nats; None where it failed."""
    seconds_to_first: float
    """Seconds of work before the second token, with stages that questions on a video share divided among them."""
    tokens_kept: int
    tokens_before: int
    peak_bytes: int | None
    seconds: float = 0.0
    """Seconds of work of the whole answer."""
    error: str | None = None
    """Why there is no answer, where errors are skipped; it counts as one that differs."""
    key: str = ""
    """Hash of all that the outcome depends on."""
    pictures: Sequence[Picture] = ()
    """Frames of the page, where it has them."""

    def to_row(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        told = {name: value for name, value in vars(self).items() if name != "asked"}
        return {**told, **vars(self.asked), "video": str(self.asked.video), "agrees": self.agrees, "right": self.right}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> "MethodOutcome":
        """Read what `to_row` gives."""
        asked = {field.name: row[field.name] for field in fields(FileQuestion)} | {"video": Path(row["video"])}
        own = {field.name: row[field.name] for field in fields(MethodOutcome) if field.name != "asked"}
        return MethodOutcome(asked=FileQuestion(**asked), **own | {"pictures": tuple(map(tuple, row["pictures"]))})

    @property
    def agrees(self) -> bool:
        """Whether the answer is that with all tokens, but for case, spaces and punctuation."""
        return self.error is None and plain(self.text) == plain(self.full_text)

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
    methods: Mapping[str, Lane],
    asked: Sequence[FileQuestion],
    frames: FrameOptions,
    max_new_tokens: int,
    known: Mapping[str, MethodOutcome] | None = None,
) -> Iterator[tuple[MethodOutcome, Kept | None]]:
    """Answer every question with every method; a video is decoded and encoded once, the first one twice, to warm up.

    Args:
        methods: on one model, by the name of their row; FULL must be among them, and its outcomes come first.
        asked: those on one video are answered together.
        frames: which frames of a video the model sees.
        max_new_tokens: most tokens of an answer.
        known: outcomes of an earlier run by their keys; a question with all of its outcomes is not asked again.

    Yields:
        Outcomes, and what pictures show of them; nothing of known ones and of those that failed.

    Raises:
        Exception: what was wrong with a question, such as VideoError, where errors are not skipped.
    """
    order, known = [FULL, *(name for name in methods if name != FULL)], known or {}
    lanes = [methods[name] for name in order]
    watch = Prompts(lanes[0].built.vlm, [lane.built.method.layer_pruning.stages() for lane in lanes])
    answerer = Answerer(lanes, frames, watch)
    warm: Answerer | None = Answerer(lanes, frames)
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    by_video: dict[Path, dict[int, FileQuestion]] = {}
    for number, one in enumerate(asked):
        by_video.setdefault(one.video, {})[number] = one
    for count, (path, questions) in enumerate(by_video.items(), start=1):
        log.info("%d of %d videos: %s, %d questions", count, len(by_video), path.name, len(questions))
        opened = partial(load_video, path, frames)
        asks = {number: _ask(one, opened, options) for number, one in questions.items()}
        keys = {number: [lane.session.key(ask) for lane in lanes] for number, ask in asks.items()}
        for number in [number for number in asks if all(key in known for key in keys[number])]:
            del asks[number]
            yield from ((replace(known[key], method=name), None) for name, key in zip(order, keys[number], strict=True))
        with plain_errors():
            if warm and asks:  # what loads and compiles on first use is in no time that is reported
                for _ in warm.answer_all(dict([next(iter(asks.items()))])):
                    _forget(warm)
                warm = None
            base: dict[int, tuple[Float[Tensor, " V"] | None, str]] = {}
            for lane, number, answer in answerer.answer_all(asks):
                seen, watch.last = (None, None) if answer.error else watch.last, (None, None)
                logits, packed = seen
                full, text = base.setdefault(number, (logits, answer.text))
                kl = None if full is None or logits is None else divergence(full, logits)
                outcome = outcome_of(questions[number], order[lane], answer, kl, text, keys[number][lane])
                yield outcome, None if packed is None else Kept(opened(), packed)
                _forget(answerer)


def outcomes_of(
    given: Mapping[str, str],
    asked: Sequence[FileQuestion],
    file: Path,
    draw: Callable[[MethodOutcome, Kept | None], Sequence[Picture]],
    max_new_tokens: int,
) -> tuple[list[MethodOutcome], VideoVLM]:
    """Answer with the `--model_args` of every row; outcomes go to `file` as they come, those there are taken over.

    `draw` makes the pictures of an outcome. KeyboardInterrupt says how to go on; raises as `measure` does, too.
    """
    lanes = {}
    for name, text in given.items():
        settings = parse_arguments(pairs(text))
        built = build(settings, find_device(settings.load.device), {})
        run = replace(settings.run, share_prefix=False)  # each answer's time is that of a question asked alone
        lanes[row_name(name, built.method.describe())] = Lane(built, run, Session(built.setup, None, None))
    made, known, go_on = [], read_outcomes(file), "the same command goes on there"
    try:
        for outcome, kept in measure(lanes, asked, settings.frames, max_new_tokens, known):
            made.append(replace(outcome, pictures=draw(outcome, kept)))
            append_line(file, json.dumps(made[-1].to_row(), allow_nan=False), f"and {go_on}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{len(made)} outcomes are in {file}; {go_on}") from None
    write_whole(file, "".join(json.dumps(one.to_row(), allow_nan=False) + "\n" for one in made).encode())
    return made, built.vlm


def _ask(one: FileQuestion, opened: Callable[[], Video], options: GenerationOptions) -> Ask:
    question = Question(one.question, refined=refine(one.question), doc_key=f"line {one.line}", spans=one.spans)
    return Ask("", "", question, (str(one.video),), lambda: [opened()], options)


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
    last: tuple[Float[Tensor, " V"] | None, PackedTokens | None] = (None, None)
    """Logits of the last prompt, and the tokens in it."""

    @torch.inference_mode()
    def __call__(self, lane: int, ask: Ask, ready: Prepared) -> None:
        """Read one prompt."""
        logits = self.vlm.next_token_logits(ready.prompt, self.stages[lane])
        self.last = logits.float().cpu(), ready.packed[0]


def outcome_of(
    one: FileQuestion, name: str, answer: Answer, kl: float | None, full_text: str, key: str = ""
) -> MethodOutcome:
    """What is told of one answer."""
    cost, kl = answer.cost, kl if kl is not None and math.isfinite(kl) else None
    first = cost.seconds_total - cost.seconds.get("generate", 0.0)
    counts = (first, cost.tokens_kept, cost.tokens_before, cost.peak_bytes, cost.seconds_total)
    return MethodOutcome(one, name, answer.text, full_text, kl, *counts, answer.error, key)


def plain(text: str) -> str:
    """The words of an answer, without case and punctuation: `(B) a cat.` becomes `b a cat`, and `B.` becomes `b`."""
    return " ".join(re.findall(r"\w+", text.casefold()))
