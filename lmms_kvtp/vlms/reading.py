"""How prompts are read: their positions, what is added to them inside the model, and what an earlier one has left."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lmms_kvtp.device import send
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
        if before.positions is not None or prompt.positions is not None:
            one, other = (_places(given)[..., :length] for given in (before, prompt))
            length = _alike((one == other).reshape(-1, length).all(dim=0))
        same = (before.embeds[:length] == prompt.embeds[:length]).all(dim=1)
        if before.deep is not None or prompt.deep is not None:
            added = [prompt.embeds.new_zeros(1) if part.deep is None else part.deep for part in (before, prompt)]
            one, other = (deep[:, :length] if deep.ndim > 1 else deep for deep in added)
            same &= (one == other).all(dim=2).all(dim=0)
        shared = _alike(same)
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
    return torch.arange(prompt.length) if prompt.positions is None else prompt.positions


def _alike(same: Bool[Tensor, " L"]) -> int:
    """Count the marks before the first that is missing."""
    return int(same.long().cumprod(dim=0).sum())


def _crop(cache: Any, length: int) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Collect what each module returns, call by call, inside this block."""
    found: list[list[Tensor]] = [[] for _ in modules]
    with ExitStack() as stack:
        for module, outputs in zip(modules, found, strict=True):
            hook = module.register_forward_hook(lambda *given, to=outputs: to.append(given[-1]))
            stack.callback(hook.remove)
        yield found


def pad_left(prompts: list[Tensor]) -> tuple[Float[Tensor, "B L D"], Tensor]:
    """Make one batch of prompts of several lengths; returns it, and a mask that is 1 where there is no padding."""
    longest = max(map(len, prompts))
    embeds = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=embeds.device)
    for row, prompt in enumerate(prompts):
        embeds[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
    return embeds, mask


def counted(mask: Int[Tensor, "B L"], axes: int) -> dict[str, Tensor]:
    """Number the places of a batch without gaps, on several axes; on one axis transformers does so itself."""
    return {} if axes == 1 else {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0).expand(axes, -1, -1)}


@contextmanager
def placed(rotary: nn.Module, prompts: Sequence[Prompt]) -> Iterator[None]:
    """Rotate the places of prompts by their own positions, inside this block; answers follow behind their spans.

    Only the module that makes rotary embeddings learns of them: transformers would take positions with gaps for
    several prompts packed into one row, where it is given neither mask nor cache, and flash attention always.
    """
    longest = max((prompt.length for prompt in prompts), default=0)
    if all(prompt.positions is None for prompt in prompts):
        yield
        return
    axes = max(1 if p.positions is None or p.positions.ndim == 1 else len(p.positions) for p in prompts)
    table = torch.zeros(axes, len(prompts), longest, dtype=torch.long)
    ends = torch.tensor([[p.length, p.end] for p in prompts])
    for row, prompt in enumerate(prompts):
        table[:, row, : prompt.length] = _places(prompt)
    table, ends = (send(part, prompts[0].embeds.device) for part in (table, ends))

    def before(
        module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        places = named.pop("position_ids", None)
        places = given[1] if places is None else places  # [B, n] or [3, B, n], counted without gaps
        rows, (length, end) = table.to(places.device), ends.to(places.device)[:, :, None].unbind(dim=1)
        along = places.expand(axes, *places.shape[-2:])
        held = rows.expand(-1, along.shape[1], -1).gather(2, along.clamp(max=longest - 1))
        moved = torch.where(along < length, held, along - length + end)
        return (given[0], moved if places.ndim == 3 else moved[0]), named

    hook = rotary.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def deepened(
    layers: Sequence[nn.Module], prompts: Sequence[Prompt], processed: Sequence[Int[Tensor, " K"]]
) -> Iterator[None]:
    """Add to the hidden states behind the first layers what the prompts say, inside this block, while they are read.

    Args:
        layers: of the language model.
        prompts: a batch, padded on the left.
        processed: positions that each layer works on, where a single prompt loses some on its way.
    """
    levels = max((len(prompt.deep) for prompt in prompts if prompt.deep is not None), default=0)

    def after(level: int, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if output.shape[1] == 1:  # a token of the answer, or the last of a prompt, which is text
            return None
        rows = []
        for prompt in prompts:
            own = prompt.embeds[:0] if prompt.deep is None else prompt.deep[level]
            if len(prompts) == 1 and prompt.deep is not None:
                own = own[processed[level].to(own.device)]
            own = own[-output.shape[1] :]
            rows.append(torch.cat([own.new_zeros(output.shape[1] - len(own), output.shape[2]), own]))
        return output + torch.stack(rows).to(output)  # beams of one prompt are equal

    with ExitStack() as stack:
        for level in range(levels):
            stack.callback(layers[level].register_forward_hook(partial(after, level)).remove)
        yield
