"""The chat template of LLaVA-Video (qwen_1_5) as token ids."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from transformers import PreTrainedTokenizerBase

SYSTEM = "system\nYou are a helpful assistant."


@dataclass(frozen=True)
class Chat:
    """Writes a conversation with one question; only the template's own markers become special tokens."""

    tokenizer: PreTrainedTokenizerBase

    def around(self, text: str, visuals: bool) -> tuple[list[int], list[int]]:
        """Split the prompt's ids into those before and behind the visuals; without visuals all are before.

        Raises:
            ValueError: `text` is empty.
        """
        if not text.strip():
            raise ValueError(f"the question is empty ({text!r}); a prompt needs some text")
        before, user, behind = self._template
        # text between two markers is split into words as a whole, so it is encoded as a whole
        if visuals:
            return [*before, *user], [*self.plain(f"\n{text}"), *behind]
        return [*before, *self.plain(f"user\n{text}"), *behind], []

    @cached_property
    def _template(self) -> tuple[list[int], list[int], list[int]]:
        """Ids before the user's turn, at its start and behind it, which no question changes."""
        start, end = self.marker("<|im_start|>"), self.end
        before = [start, *self.plain(SYSTEM), end, *self.plain("\n"), start]
        return before, self.plain("user\n"), [end, *self.plain("\n"), start, *self.plain("assistant\n")]

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.marker("<|im_end|>")

    @property
    def pad(self) -> int:
        """The token that fills up shorter answers."""
        pad = self.tokenizer.pad_token_id
        return self.end if pad is None else cast(int, pad)

    def marker(self, name: str) -> int:
        """Look up the id of a special token."""
        return cast(int, self.tokenizer.convert_tokens_to_ids(name))

    def plain(self, text: str) -> list[int]:
        """Split `text` into ids; `<|im_end|>` and the like are plain characters in it."""
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids
        return ids
