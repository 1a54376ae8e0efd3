"""Which option a model's free text chooses."""

import re
from collections.abc import Sequence

LETTERS = "ABCD"

_ALONE = re.compile(r"\W*([A-Da-d])\W*")
_FIRST = re.compile(r"\W*([A-D])\s*[.):,\]]")
_NAMED = re.compile(r"\b(?i:answer|option|choice)\b(?:\s+(?i:is))?\W*\b([A-D])\b(?!\s+[a-z])")
_BARE = re.compile(r"\b([B-D])\b|\bA\b(?!\s+[a-z])")  # "A red one" has an article, not a letter


def chosen_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter that an answer means, or None where it means none or several.

    A letter counts before an option's words, so that "B. red" is B whatever B says.

    Args:
        text: what the model wrote.
        options: the four options, in the order of their letters.
    """
    for pattern in (_ALONE.fullmatch, _FIRST.match, _NAMED.search):
        match = pattern(text)
        if match:
            return str(match[1]).upper()
    letters = {match[1] or "A" for match in _BARE.finditer(text)}
    if len(letters) == 1:
        return letters.pop()
    named = [i for i, option in enumerate(options) if re.search(rf"\b{re.escape(option)}\b", text, re.IGNORECASE)]
    return LETTERS[named[0]] if len(named) == 1 and not letters else None
