"""Operations of rotary embeddings: a matrix product in transformers < 5, which the closed forms leave out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from lmms_kvtp.cost.meter import Counted, counting


@contextmanager
def rotary_flops(rotary: nn.Module) -> Iterator[Counted]:
    """Count what this module takes inside the block, by running it again; 0 in transformers 5, without a product."""
    found = Counted()

    def again(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
        with _disable_current_modes(), counting() as own:
            module.forward(*given, **named)
        found.flops += own.flops

    hook = rotary.register_forward_hook(again, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()
