"""Questions that share the beginning of their prompts share its keys and values."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.types import Prompt


class PrefixCache:
    """Keys and values of the last prompt; the next prompt reuses those of the positions that both begin with.

    Prompts are compared place by place, with their rotary positions and what is added inside the model, so a reused
    prefix is always the same prefix; rounding aside, an answer does not depend on what came before it.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._prompt: Prompt | None = None
        self._cache: Any = None

    def take(self, prompt: Prompt) -> tuple[Any, int]:
        """Hand out the cache, cut to what `prompt` begins with, and that length; None and 0 where nothing is shared.

        Nothing is held until `keep` is called, so that a prompt that fails leaves nothing behind.
        """
        before, cache = self._prompt, self._cache
        self.clear()
        if before is None:
            return None, 0
        # the last position is always read again: its output is what an answer begins with
        length = min(before.length, prompt.length - 1)
        same = (before.embeds[:length] == prompt.embeds[:length]).all(dim=1)
        if before.positions is not None or prompt.positions is not None:
            one, other = (_places(given)[..., :length] for given in (before, prompt))
            same &= (one == other).reshape(-1, length).all(dim=0)
        if before.deep is not None or prompt.deep is not None:
            added = [prompt.embeds.new_zeros(1) if part.deep is None else part.deep for part in (before, prompt)]
            one, other = (deep[:, :length] if deep.ndim > 1 else deep for deep in added)
            same &= (one == other).all(dim=2).all(dim=0)
        shared = int(same.long().cumprod(dim=0).sum())
        if not shared:
            return None, 0
        _crop(cache, shared)
        return cache, shared

    def keep(self, prompt: Prompt, cache: Any) -> None:
        """Hold on to a prompt and its cache, without the answer."""
        _crop(cache, prompt.length)
        self._prompt, self._cache = prompt, cache

    def clear(self) -> None:
        """Let go of everything, as before another video."""
        self._prompt, self._cache = None, None


def _places(prompt: Prompt) -> Tensor:
    """Positions on one axis or several, with those of a prompt that has none."""
    return torch.arange(prompt.length, device=prompt.embeds.device) if prompt.positions is None else prompt.positions


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
