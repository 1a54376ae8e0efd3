"""Texts as encoders read them: embedded once, and cut into pieces where a tower reads few tokens."""

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
        """Forget all embeddings, so that a measurement that follows does its own work."""
        self.__dict__.pop("_known_text", None)


def scaled_cosines(
    image: Float[Tensor, "T E"], text: Float[Tensor, "q E"], factor: float, bias: float
) -> Float[Tensor, "q T"]:
    """Compare each text with each image: factor * cosine + bias."""
    cosine = F.normalize(text.to(image.device), dim=-1) @ F.normalize(image, dim=-1).T
    return cosine * factor + bias


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Cut a text into pieces that fit: after sentences, else between words, else within a word.

    Neighbours that fit together stay together; how many do is found by halving, for to ask is to split into tokens. Of
    what fits, every beginning does; an empty text is one empty piece. ValueError where not even one character fits.
    """
    if fits(text):
        return [text]
    parts, pieces = _parts(text), list[str]()
    while parts:
        pieces += split_text(parts.pop(0), fits)
        count = _joining(pieces[-1], parts, fits)
        pieces[-1] = " ".join([pieces[-1], *parts[:count]])
        parts = parts[count:]
    return pieces


def _joining(piece: str, parts: list[str], fits: Callable[[str], bool]) -> int:
    """Count the next parts that fit together with a piece."""
    return bisect_left(range(len(parts)), True, key=lambda more: not fits(" ".join([piece, *parts[: more + 1]])))


def _parts(text: str) -> list[str]:
    for parts in (_AFTER_SENTENCE.split(text.strip()), text.split()):
        if len(parts) > 1:
            return parts
    half = len(text) // 2
    if not half:
        raise ValueError(f"the text tower reads so few tokens that {text!r} does not fit")
    return [text[:half], text[half:]]


def padded_pieces(text: str, tokenizer: Any, limit: int) -> Int[Tensor, "p l"]:
    """Split a text into pieces of at most `limit` tokens, each ended and padded as SigLIP was trained."""

    def fits(piece: str) -> bool:
        return bool(len(tokenizer(piece, verbose=False).input_ids) <= limit)

    padded = tokenizer(
        split_text(text.lower(), fits),  # SigLIP 2's tokenizer leaves lowering to the caller
        padding="max_length",
        padding_side="right",
        max_length=limit,
        return_tensors="pt",
    )
    ids: Tensor = padded.input_ids
    return ids
