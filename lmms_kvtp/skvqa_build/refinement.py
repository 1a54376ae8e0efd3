"""Step 3: questions short and without hints, as relevance scorers read them."""

import logging
from collections.abc import Iterable, Iterator, Sequence

from lmms_kvtp.questions import MAX_WORDS, Remembered, refine
from lmms_kvtp.skvqa.layouts import SourceQuestion
from lmms_kvtp.skvqa_build.ask import Asked, ask, read_question
from lmms_kvtp.skvqa_build.chat import Chat, ChatRequest
from lmms_kvtp.skvqa_build.prompts import prompt
from lmms_kvtp.skvqa_build.store import Store

log = logging.getLogger(__name__)

RULE = "rule"
"""Name of the refiner that needs no model: `lmms_kvtp.questions`."""


def refine_questions(chat: Chat | None, store: Store, questions: Sequence[SourceQuestion]) -> Asked[str]:
    """The refined questions by question id.

    Args:
        chat: the refiner; None for fixed rules.
        store: of finished calls.
        questions: of one data set.

    Raises:
        ChatError: the refiner cannot be used at all.
        BudgetError: the budget is spent.
    """
    if chat is None:
        return Asked({asked.question_id: refine(asked.question, asked.options) for asked in questions}, ())
    return ask(chat, store, _requests(questions), lambda _, text: read_question(text))


def remember(chat: Chat | None, store: Store, questions: Iterable[tuple[str, tuple[str, ...]]]) -> Remembered:
    """Have bare questions, with their options, refined; what a model cannot refine is left to fixed rules, and counted.

    Args:
        chat: the refiner; None for fixed rules.
        store: of finished calls.
        questions: stem and options; each is asked once.

    Raises:
        ChatError: the refiner cannot be used at all.
        BudgetError: the budget is spent.
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


def _requests(questions: Sequence[SourceQuestion]) -> Iterator[ChatRequest]:
    for asked in questions:
        text = prompt("refine", max_words=MAX_WORDS, question=asked.question, options="\n".join(asked.options))
        yield ChatRequest(step="refine", text=text, subject=asked.question_id, max_new_tokens=200)
