"""Steps 2 and 3, a caption for each clip and questions without hints, and how a model is asked for such texts.

Requests go to the model, but for those in the store; answers are read strictly, and a bad one is repaired once.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

from lmms_kvtp.files import content_key
from lmms_kvtp.questions import MAX_WORDS, MOST_RELEVANT, Remembered, refine
from lmms_kvtp.skvqa.layouts import SourceQuestion
from lmms_kvtp.skvqa_build.chat import ChatModel, ChatReply, ChatRequest, Turn
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.skvqa_build.videos import Clips

log = logging.getLogger(__name__)

A = TypeVar("A")
REPAIRS = 1
TELL_EVERY = 200
"""Calls between two lines of progress in the log."""
SLACK = 1.5
"""Most words of a refined question, over those that were asked for."""
_PAIR = re.compile(r"\[\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\]\s*:\s*(\d)\b")
_PAPER = re.compile(rf"\{{\s*{_PAIR.pattern}(\s*,\s*{_PAIR.pattern})*\s*\}}")


class AnswerError(ValueError):
    """An answer is not of the wanted form; the message says why, for the model and for the user."""


def read_caption(text: str) -> str:
    """Read a caption, any text in any language, and even out its white space; AnswerError where there is none."""
    caption = " ".join(text.split())
    if not caption:
        raise AnswerError("it is empty")
    return caption


def read_refined(text: str) -> str:
    """Read `{"question": "..."}`; AnswerError where it is not that, or the text is empty or too long."""
    found = _json(text, "question")
    if not isinstance(found, str):
        raise AnswerError(f'"question" is {type(found).__name__}, not text')
    question = " ".join(found.split())
    words = len(question.split())
    if not question:
        raise AnswerError("the question is empty")
    if words > MAX_WORDS * SLACK:
        raise AnswerError(f"the question has {words} words, at most {MAX_WORDS} were asked for")
    return question


def read_scores(text: str, bounds: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Read the score of each clip; `bounds` are its first and last frames.

    AnswerError where the answer is neither `{"scores": {"0-7": 3, ...}}` nor, in the paper's form, `{[0,7]:3, ...}`,
    with every clip once, no other, and whole numbers from 0 to 5.
    """
    if _PAPER.fullmatch(text.strip()):
        found: Any = _unique([(f"{first}-{last}", int(score)) for first, last, score in _PAIR.findall(text)])
    else:
        found = _json(text, "scores")
    if not isinstance(found, dict):
        raise AnswerError(f'"scores" is {type(found).__name__}, not an object')
    wanted = [f"{first}-{last}" for first, last in bounds]
    missing, extra = [clip for clip in wanted if clip not in found], [clip for clip in found if clip not in wanted]
    if missing:
        raise AnswerError(f"clips without a score: {', '.join(missing[:5])}")
    if extra:
        raise AnswerError(f"scores for clips that do not exist: {', '.join(map(repr, extra[:5]))}")
    for clip, score in found.items():
        if type(score) is not int or not 0 <= score <= MOST_RELEVANT:
            raise AnswerError(f"the score of clip {clip} is {score!r}, not a whole number from 0 to {MOST_RELEVANT:g}")
    return tuple(float(found[clip]) for clip in wanted)


def _json(text: str, name: str) -> Any:
    """Read the value of the only key of an object; a code fence around it is allowed, any other text is not."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and len(body) > 6:
        body = body[3:-3].removeprefix("json").strip()
    try:
        found = json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"it is not JSON ({error})") from error
    if not isinstance(found, dict) or set(found) != {name}:
        raise AnswerError(f'it is not an object with the one key "{name}"')
    return found[name]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise AnswerError("a key occurs twice")
    return found


@dataclass(frozen=True)
class Failure:
    """A request without a usable answer."""

    step: str
    subject: str
    reason: str


@dataclass(frozen=True)
class Answered(Generic[A]):
    """Answers by the subject of their request, and what failed."""

    answers: dict[str, A]
    failures: tuple[Failure, ...]


def ask_all(
    chat: ChatModel, store: Store, requests: Iterable[ChatRequest], parse: Callable[[ChatRequest, str], A]
) -> Answered[A]:
    """Have all requests answered, by the store where it can; raises as `ChatModel.complete`, and StoreError.

    Their subjects are all different. An answer that `parse` refuses by AnswerError is sent back once with the reason;
    refused again, the request counts as failed.
    """
    answers: dict[str, A] = {}
    failures: list[Failure] = []

    def settle(request: ChatRequest, text: str) -> ChatRequest | None:
        try:
            answers[request.subject] = parse(request, text)
        except AnswerError as error:
            if len(request.turns) < REPAIRS:
                turn = Turn(text, prompt("repair", reason=error))
                return replace(request, turns=(*request.turns, turn))
            failures.append(Failure(request.step, request.subject, str(error)))
        return None

    def follow(request: ChatRequest | None) -> ChatRequest | None:
        """Find the first of a request and its repairs that the store cannot answer."""
        while request is not None and (known := store.get(request.key(chat.identity))) is not None:
            request = settle(request, known)
        return request

    def unanswered() -> Iterator[ChatRequest]:
        for request in requests:
            if (open_request := follow(request)) is not None:
                yield open_request

    made = count(1)

    def then(request: ChatRequest, reply: ChatReply) -> ChatRequest | None:
        if (number := next(made)) % TELL_EVERY == 0:
            log.info("%s: %d calls by %s", request.step, number, chat.name)
        key = request.key(chat.identity)
        store.put(key, reply.text, request.step, chat.name, reply.input_tokens, reply.output_tokens)
        return follow(settle(request, reply.text))

    lost = chat.complete(unanswered(), then)
    failures += [Failure(request.step, request.subject, reason) for request, reason in lost]
    return Answered(answers, tuple(failures))


def caption_clips(chat: ChatModel, store: Store, videos: Mapping[str, Clips]) -> Answered[tuple[str, ...]]:
    """Caption clips, by the store where it can; returns those of videos of which every clip has one, by video id.

    Raises as `ask_all` does.
    """
    text = prompt("caption")
    subjects = {name: [f"{name}#{n}" for n in range(len(clips.bounds))] for name, clips in videos.items()}
    requests = (
        ChatRequest("caption", text, subject, partial(clips.frames, clip), f"{clips.key}:{clip}", max_new_tokens=256)
        for name, clips in videos.items()
        for clip, subject in enumerate(subjects[name])
    )
    asked = ask_all(chat, store, requests, lambda _, text: read_caption(text))
    whole = {name: own for name, own in subjects.items() if all(subject in asked.answers for subject in own)}
    return Answered({name: tuple(asked.answers[one] for one in own) for name, own in whole.items()}, asked.failures)


def captions_hash(captions: Iterable[str]) -> str:
    """Hash the captions of a video; empty for none."""
    listed = list(captions)
    return content_key("captions", listed) if listed else ""


def refine_questions(chat: ChatModel | None, store: Store, questions: Sequence[SourceQuestion]) -> Answered[str]:
    """Refine a data set's questions, by question id: by fixed rules where `chat` is None; raises as `ask_all` does."""
    if chat is None:
        return Answered({asked.question_id: refine(asked.question, asked.options) for asked in questions}, ())

    def request(asked: SourceQuestion) -> ChatRequest:
        text = prompt("refine", max_words=MAX_WORDS, question=asked.question, options="\n".join(asked.options))
        return ChatRequest(step="refine", text=text, subject=asked.question_id, max_new_tokens=200)

    return ask_all(chat, store, map(request, questions), lambda _, text: read_refined(text))


def remember(chat: ChatModel | None, store: Store, questions: Iterable[tuple[str, tuple[str, ...]]]) -> Remembered:
    """Refine bare questions with their options, each once, as `refine_questions` does.

    Those that a model cannot refine are left to fixed rules, and counted in the log.
    """
    distinct = list(dict.fromkeys(questions))
    sources = [SourceQuestion(str(number), "", "", *asked) for number, asked in enumerate(distinct)]
    found = refine_questions(chat, store, sources)
    if found.failures:
        one = found.failures[0]
        log.warning(
            "%d of %d questions are refined by rule; one of them, %r: %s",
            len(found.failures), len(distinct), distinct[int(one.subject)][0], one.reason,
        )  # fmt: skip
    return Remembered.of({distinct[int(number)]: text for number, text in found.answers.items()})
