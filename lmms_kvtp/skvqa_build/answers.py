"""Answers of language models, read strictly: what is not exactly of the wanted form is an error, never a guess."""

import json
from collections.abc import Sequence
from typing import Any

from lmms_kvtp.questions import MAX_WORDS, MOST_RELEVANT

SLACK = 1.5
"""A refined question may have this much more than the words that were asked for."""


class AnswerError(ValueError):
    """An answer is not of the wanted form; the message says why, for the model and for the user."""


def read_caption(text: str) -> str:
    """A caption: any text in any language, with its white space evened out.

    Raises:
        AnswerError: there is none.
    """
    caption = " ".join(text.split())
    if not caption:
        raise AnswerError("it is empty")
    return caption


def read_question(text: str) -> str:
    """The refined question.

    Raises:
        AnswerError: the answer is not `{"question": "..."}`, or its text is empty or too long.
    """
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
    """The score of each clip.

    Args:
        text: the answer.
        bounds: first and last frame of each clip.

    Raises:
        AnswerError: the answer is not `{"scores": {"0-7": 3, ...}}` with every clip once, no other, and whole
            numbers from 0 to 5.
    """
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
    """The value of the only key of an object; a code fence around it is allowed, any other text is not."""
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
