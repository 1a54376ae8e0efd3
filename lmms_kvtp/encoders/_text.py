"""The text side of encoders: texts are embedded once, and cut where a tower reads few tokens."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

REMEMBERED = 256
"""Texts whose token ids and embeddings an encoder keeps: scorer, pruner and ledger read the same question, in a sweep
for every method."""

_AFTER_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


class RemembersTexts(ABC):
    """Embeds each text once, until it is told to forget them."""

    @abstractmethod
    def embed_text(self, text: str) -> Float[Tensor, "_ E"]:
        """Embed one text, not normalised: a row for each piece that the tower can read."""

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "q E"]:
        """Embed texts, not normalised. A text of more tokens than the tower reads becomes several rows."""
        return torch.cat([self._known_text(text) for text in texts])

    @cached_property
    def _known_text(self) -> Callable[[str], Float[Tensor, "_ E"]]:
        return lru_cache(REMEMBERED)(self.embed_text)

    def forget_texts(self) -> None:
        """Embed texts anew from here on: before a measurement, so that it does its own work."""
        self.__dict__.pop("_known_text", None)


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
