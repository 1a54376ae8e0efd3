"""Operations counted while they run, by torch's own counter: for parts that have no closed form."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Counted:
    """What `counting` found."""

    flops: int = 0
    """0 until the block is over."""


@contextmanager
def counting() -> Iterator[Counted]:
    """Count the matrix products and convolutions inside the block, and distances as the product that they contain."""
    found = Counted()
    aten = torch.ops.aten
    distances: dict[Any, Any] = {aten._cdist_forward: _distances, aten._euclidean_dist: _distances}
    with FlopCounterMode(display=False, custom_mapping=distances) as counter:
        yield found
    found.flops = int(counter.get_total_flops())


def undeclared_flops(component: object) -> int | None:
    """Operations of a component that declares none: 0 in this package, None elsewhere, to be counted while it runs.

    The contract tests hold every formula of this package to the counter, so a component without one needs none.
    """
    return 0 if type(component).__module__.startswith("lmms_kvtp.") else None


@contextmanager
def unfused() -> Iterator[None]:
    """Attention as matrix products inside the block, for the counter does not see into fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _distances(left: Sequence[int], right: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """All distances of n and m points of width d: 2 n m d."""
    return 2 * math.prod(left[:-1]) * right[-2] * left[-1]
