"""Questions that share the beginning of their prompts share its keys and values."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class PrefixCache:
    """Keys and values of the last prompt; the next prompt reuses those of the positions that both begin with.

    Prompts are compared place by place, with their rotary positions, so a reused prefix is always the same prefix;
    rounding aside, an answer does not depend on what came before it.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._embeds: Tensor | None = None
        self._positions: Tensor | None = None
        self._cache: Any = None

    def take(self, embeds: Float[Tensor, "L D"], positions: Int[Tensor, " L"] | None = None) -> tuple[Any, int]:
        """Hand out the cache, cut to what `embeds` begins with, and that length; None and 0 where nothing is shared.

        Places have the rotary `positions`, or 0 to L - 1. Nothing is held until `keep` is called, so that a prompt that
        fails leaves nothing behind.
        """
        before, places, cache = self._embeds, self._positions, self._cache
        self.clear()
        if before is None:
            return None, 0
        # the last position is always read again: its output is what an answer begins with
        length = min(len(before), len(embeds) - 1)
        same = (before[:length] == embeds[:length]).all(dim=1)
        if places is not None or positions is not None:
            one, other = (_places(given, embeds)[:length] for given in (places, positions))
            same &= one == other
        shared = int(same.long().cumprod(dim=0).sum())
        if not shared:
            return None, 0
        _crop(cache, shared)
        return cache, shared

    def keep(self, embeds: Float[Tensor, "L D"], cache: Any, positions: Int[Tensor, " L"] | None = None) -> None:
        """Hold on to a prompt and its cache, without the answer."""
        _crop(cache, len(embeds))
        self._embeds, self._positions, self._cache = embeds, positions, cache

    def clear(self) -> None:
        """Let go of everything, as before another video."""
        self._embeds, self._positions, self._cache = None, None, None


def _places(positions: Int[Tensor, " l"] | None, embeds: Float[Tensor, "L D"]) -> Int[Tensor, " k"]:
    return torch.arange(len(embeds), device=embeds.device) if positions is None else positions


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
