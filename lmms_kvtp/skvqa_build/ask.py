"""Asks a model what is not yet in the store, reads its answers strictly, and has each bad one repaired once."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Generic, TypeVar

from lmms_kvtp.skvqa_build.answers import AnswerError
from lmms_kvtp.skvqa_build.chat import Chat, ChatReply, ChatRequest, Turn
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.store import Store

A = TypeVar("A")
REPAIRS = 1
TELL_EVERY = 200
"""Calls between two signs of life in the log."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A call without a usable answer."""

    step: str
    subject: str
    reason: str


@dataclass(frozen=True)
class Asked(Generic[A]):
    """Answers by the subject of their request, and what failed."""

    answers: dict[str, A]
    failures: tuple[Failure, ...]


def ask(chat: Chat, store: Store, requests: Iterable[ChatRequest], parse: Callable[[ChatRequest, str], A]) -> Asked[A]:
    """Answer all requests, from the store where it has them.

    An answer that `parse` refuses is sent back once with the reason; refused again, the request counts as failed.

    Args:
        chat: the model.
        store: of finished calls.
        requests: with subjects that are all different.
        parse: reads an answer; raises AnswerError.

    Raises:
        ChatError: the model cannot be used at all.
        BudgetError: the budget is spent.
        StoreError: the store cannot be written.
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
        """The first of a request and its repairs that the store cannot answer."""
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
    return Asked(answers, tuple(failures))
