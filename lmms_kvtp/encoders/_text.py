"""Long texts for text towers that read few tokens."""

import re
from collections.abc import Callable

REMEMBERED = 256
"""Texts whose token ids and embeddings an encoder keeps: scorer, pruner and ledger read the same question, in a sweep
for every method."""

_AFTER_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Cut a text into pieces that fit: after sentences, else between words, else within a word.

    Neighbours that fit together stay together.

    Args:
        text: may be empty, which is one empty piece.
        fits: a piece is short enough.

    Raises:
        ValueError: not even a single character fits.
    """
    if fits(text):
        return [text]
    pieces: list[str] = []
    for part in _parts(text):
        joined = f"{pieces[-1]} {part}" if pieces else part
        if pieces and fits(joined):
            pieces[-1] = joined
        else:
            pieces += split_text(part, fits)
    return pieces


def _parts(text: str) -> list[str]:
    for parts in (_AFTER_SENTENCE.split(text.strip()), text.split()):
        if len(parts) > 1:
            return parts
    half = len(text) // 2
    if not half:
        raise ValueError(f"the text tower reads so few tokens that {text!r} does not fit")
    return [text[:half], text[half:]]
