"""Questions that share the beginning of their prompts share its keys and values."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class PrefixCache:
    """Keys and values of the last prompt; the next prompt reuses those of the positions that both begin with.

    Prompts are compared position by position, so a reused prefix is always the same prefix; rounding aside, an answer
    does not depend on what came before it.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._embeds: Tensor | None = None
        self._cache: Any = None

    def take(self, embeds: Float[Tensor, "L D"]) -> tuple[Any, int]:
        """Hand out the cache, cut to what `embeds` begins with, and that length; None and 0 where nothing is shared.

        Nothing is held until `keep` is called, so that a prompt that fails leaves nothing behind.
        """
        before, cache = self._embeds, self._cache
        self.clear()
        if before is None:
            return None, 0
        # the last position is always read again: its output is what an answer begins with
        length = min(len(before), len(embeds) - 1)
        shared = int((before[:length] == embeds[:length]).all(dim=1).long().cumprod(dim=0).sum())
        if not shared:
            return None, 0
        _crop(cache, shared)
        return cache, shared

    def keep(self, embeds: Float[Tensor, "L D"], cache: Any) -> None:
        """Hold on to a prompt and its cache, without the answer."""
        _crop(cache, len(embeds))
        self._embeds, self._cache = embeds, cache

    def clear(self) -> None:
        """Let go of everything, as before another video."""
        self._embeds, self._cache = None, None


def _crop(cache: Any, length: int) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


def pad_left(prompts: list[Tensor]) -> tuple[Float[Tensor, "B L D"], Tensor]:
    """Make one batch of prompts of several lengths; returns it, and a mask that is 1 where there is no padding."""
    longest = max(map(len, prompts))
    embeds = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=embeds.device)
    for row, prompt in enumerate(prompts):
        embeds[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    return embeds, mask
