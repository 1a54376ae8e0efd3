"""Several questions on one video as one pass: each sees the video and itself, and its positions follow the video."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmms_kvtp.tiny.tokenizer import IM_END, IM_START

PREFIX = f"{IM_START}system\nYou are a helpful assistant.{IM_END}\n{IM_START}user\n"
SUFFIX = f"{IM_END}\n{IM_START}assistant\n"
IGNORE = -100

Asked = tuple[str, str]
"""A prompt and the letter, or the word, that answers it."""


@dataclass(frozen=True)
class Packed:
    """The text behind a batch of videos. Axes: r = videos x rows of each, S text positions."""

    ids: Int[Tensor, "r S"]
    positions: Int[Tensor, "r S"]
    """Offset behind the video: every question starts at 0."""
    visible: Bool[Tensor, "r 1 S S"]
    """Which text positions each text position sees; all of them see the whole video."""
    targets: Int[Tensor, "r S"]
    """The next token where that is part of an answer, else IGNORE."""
    letters: Bool[Tensor, "r S"]
    """Where the next token is the answer's letter; in the order of the questions."""

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""
        return Packed(*(part.to(device) for part in vars(self).values()))


def word_id(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """The one token of a word inside a sentence.

    Raises:
        ValueError: the tokenizer splits the word.
    """
    ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens, not 1; train the tokenizer on a text that has it")
    return int(ids[0])


def pack(
    tokenizer: PreTrainedTokenizerBase, batch: Sequence[Sequence[Asked]], per_row: int, suffix: str = SUFFIX
) -> Packed:
    """All questions of each video, `per_row` of them in one row; every video has the same number of rows.

    Few to a row cost less when videos are short, many when they are long. `suffix` stands before the answers.
    """
    rows = [video[i : i + per_row] for video in batch for i in range(0, len(video), per_row)]
    texts = [f"\n{prompt}{suffix}{letter}{IM_END}" for row in rows for prompt, letter in row]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    tokens = [[next(encoded) for _ in row] for row in rows]
    shape = (len(rows), max(sum(map(len, row)) for row in tokens))
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    segment, targets = torch.full(shape, -1), torch.full(shape, IGNORE)
    letters = torch.zeros(shape, dtype=torch.bool)
    for r, row in enumerate(tokens):
        start = 0
        for index, question in enumerate(row):
            end = start + len(question)
            ids[r, start:end], segment[r, start:end] = torch.tensor(question), index
            positions[r, start:end] = torch.arange(len(question))
            targets[r, end - 3 : end - 1] = ids[r, end - 2 : end]
            letters[r, end - 3] = True
            start = end
    visible = (segment[:, :, None] == segment[:, None]) & torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
    return Packed(ids, positions, visible[:, None], targets, letters)
