"""What the harness asks, in our own values."""

from collections.abc import Callable, Mapping
from typing import Any

from lmms_kvtp.run.asks import Ask, name_visuals, read_question
from lmms_kvtp.types import GenerationOptions

PADDING = "__padding_only__"
"""Mark of requests that only even out the ranks; nobody reads their answers."""


def is_padding(request: Any) -> bool:
    """Nobody will read the answer."""
    return bool((request.metadata or {}).get(PADDING))


def read_ask(
    request: Any, doc: Mapping[str, Any], options: GenerationOptions, prompt: str, load: Callable[[], list[Any]]
) -> Ask:
    """Put together one question.

    Args:
        request: of the harness.
        doc: its document.
        options: of decoding.
        prompt: text of this turn.
        load: gets the visuals of this turn.
    """
    doc_id, task, _ = request.args[-3:]
    key = document_key(task, doc_id, doc)
    try:
        visuals = name_visuals(load())
    except Exception as error:  # fails again, and is reported, when the question's turn has come
        visuals = (f"unreadable visuals of {key}: {error}",)
    version = str((request.metadata or {}).get("version", ""))
    return Ask(task, version, read_question(prompt, doc, key), visuals, load, options)


def document_key(task: str, doc_id: object, doc: Mapping[str, Any]) -> str:
    """The name of a document within a run; our own tasks look its cost up by it."""
    return str(doc.get("kvtp_id") or f"{task}/{doc_id}")
