"""Measures what the stages of an answer take: seconds, memory, and operations that have no closed form."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lmms_kvtp.cost.sample import STAGES

Timing = Literal["auto", "stages", "total", "off"]
"""How time is read on a GPU. stages: it is waited for at both ends of a stage. total: its queue notes when it passes
them, and nobody waits. off: no seconds. auto: total on a GPU, stages elsewhere, where both are one."""
Mark = float | torch.cuda.Event
"""A moment: seconds of a clock that never goes backwards, or a note in a GPU's queue."""
_timing: ContextVar[Timing] = ContextVar("timing", default="auto")


@contextmanager
def timed_as(timing: Timing) -> Iterator[None]:
    """Have the time read in this way inside the block."""
    token = _timing.set(timing)
    try:
        yield
    finally:
        _timing.reset(token)


def mark(device: torch.device) -> Mark:
    """Mark this moment in the work of a device, as the block around says."""
    if device.type == "cuda" and _timing.get() in ("auto", "total"):
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event
    if device.type == "cuda" and _timing.get() == "stages":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def passed(start: Mark, end: Mark) -> float:
    """Tell the seconds between two moments marked in one way; a GPU that has not come to the second is waited for."""
    if isinstance(end, float):
        return end - cast(float, start)
    end.synchronize()
    return float(cast(torch.cuda.Event, start).elapsed_time(end)) / 1000


class Meter:
    """Sums seconds and operations per stage, and records the accelerator's peak memory; see `Timing`."""

    def __init__(
        self,
        device: torch.device,
        seconds: dict[str, float] | None = None,
        flops: dict[str, int] | None = None,
        peak_bytes: int | None = None,
    ) -> None:
        """Start at what was spent before, or at nothing."""
        self.device, self._marks = device, list[tuple[str, Mark, Mark]]()
        self.added = dict(seconds or {})
        self.flops, self.peak_bytes = dict(flops or {}), peak_bytes
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far; a GPU is waited for until it has passed the last one."""
        marks, self._marks = self._marks, []
        for name, start, end in marks:
            self.add(name, passed(start, end))
        return self.added

    @contextmanager
    def stage(self, name: str, flops: int | None = 0) -> Iterator[None]:
        """Add the time inside the block to stage `name`, one of STAGES, even if the block fails.

        `flops` are the block's operations; None counts them while it runs, which slows it down.
        """
        start = mark(self.device)
        found = Counted(flops or 0)
        try:
            with nullcontext(found) if flops is not None else counting() as found:
                yield
        finally:
            self._marks += [] if _timing.get() == "off" else [(name, start, mark(self.device))]
            if self.device.type == "cuda":
                self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated(self.device))
        if found.flops:
            self.flops[name] = self.flops.get(name, 0) + found.flops

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        if name not in STAGES:
            raise KeyError(f"no stage {name!r}; stages: {', '.join(STAGES)}")
        if _timing.get() != "off":
            self.added[name] = self.added.get(name, 0.0) + seconds


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
