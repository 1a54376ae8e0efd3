"""Measures what the stages of an answer take: seconds, memory, and operations that have no closed form."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lmms_kvtp.cost.sample import STAGES


class Meter:
    """Sums seconds and operations per stage, and records the accelerator's peak memory.

    It waits for the accelerator at both ends of a stage, so that seconds hold the stage's own work and no other.
    """

    def __init__(
        self,
        device: torch.device,
        seconds: dict[str, float] | None = None,
        flops: dict[str, int] | None = None,
        peak_bytes: int | None = None,
    ) -> None:
        """Start at what was spent before, or at nothing."""
        self.device = device
        self.seconds, self.flops, self.peak_bytes = dict(seconds or {}), dict(flops or {}), peak_bytes
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def stage(self, name: str, flops: int | None = 0) -> Iterator[None]:
        """Add the time inside the block to stage `name`, one of STAGES, even if the block fails.

        `flops` are the block's operations; None counts them while it runs, which slows it down.
        """
        self._wait()
        start = time.perf_counter()
        found = Counted(flops or 0)
        try:
            with nullcontext(found) if flops is not None else counting() as found:
                yield
            self._wait()
        finally:
            self.add(name, time.perf_counter() - start)
        if found.flops:
            self.flops[name] = self.flops.get(name, 0) + found.flops

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        if name not in STAGES:
            raise KeyError(f"no stage {name!r}; stages: {', '.join(STAGES)}")
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if self.device.type == "cuda":
            self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated(self.device))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Counted:
    """Operations that `counting` counted."""

    flops: int = 0
    """Operations; 0 until the block is over."""


@contextmanager
def counting() -> Iterator[Counted]:
    """Count matrix products and convolutions inside the block; distances count as the product that they contain."""
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
    """Compute attention by matrix products inside the block, because the counter does not see into fused kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _distances(left: Sequence[int], right: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Operations of all distances between n and m points of width d: 2 n m d."""
    return 2 * math.prod(left[:-1]) * right[-2] * left[-1]
