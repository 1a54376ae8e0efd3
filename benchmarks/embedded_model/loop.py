"""What every stage trains with: the optimizer, number types, and the log."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

WARMUP, FLOOR = 20, 0.05
"""Steps until the learning rate is reached, and the share of it that is left in the end."""
EVERY = 25
"""Steps for which there is one line of the log."""


class Optimizer:
    """Muon for the matrices of transformer layers and AdamW for the rest, with clipped gradients and a linear decay."""

    def __init__(
        self, parts: Iterable[nn.Module | nn.Parameter], steps: int, lr: float, muon_lr: float, decay_from: float = 0.5
    ) -> None:
        """Hold learning rates from WARMUP to `decay_from` (fraction of `steps`), then let them fall to FLOOR."""
        matrices: list[nn.Parameter] = []  # inside transformer layers
        others: list[nn.Parameter] = []
        for part in parts:
            for name, each in [("", part)] if isinstance(part, nn.Parameter) else part.named_parameters():
                if each.requires_grad:
                    (matrices if each.ndim == 2 and "layers." in name else others).append(each)
        self.parameters = matrices + others
        self.adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.01) if matrices else None
        self.steps, self.decay_from, self.lrs, self.done = steps, decay_from, (lr, muon_lr), 0

    def scale(self) -> float:
        """Compute the factor on the learning rates for the next step."""
        if self.done < WARMUP:
            return (self.done + 1) / WARMUP
        left = (self.steps - self.done) / max(1.0, self.steps * (1 - self.decay_from))
        return max(FLOOR, min(1.0, left))

    def step(self, loss: Tensor) -> None:
        """Make one update from `loss`."""
        self.backward(loss)
        self.update()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Make one update from the gradients so far, and drop them."""
        scale = self.scale()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, lr in zip((self.adamw, self.muon), self.lrs, strict=True):
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = lr * scale
                optimizer.step()
                optimizer.zero_grad()
        self.done += 1


def autocast(device: torch.device) -> torch.autocast:
    """Compute matrix products in bfloat16: four times as fast as float32 on CPUs that have it."""
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def no_denormals() -> Iterator[None]:
    """Take numbers below 1e-38 as 0. Attention weights get there, and processors take ten times as long for each."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Log:
    """Collects measurements, a line for EVERY steps."""

    def __init__(self, path: Path | None = None) -> None:
        """Begin with no lines; each is also appended to the file `path`, if there is one."""
        self.path, self.start = path, time.perf_counter()
        self.lines: list[dict[str, float | str]] = []
        self.bar: tqdm[int] | None = None

    def steps(self, stage: str, count: int) -> Iterator[int]:
        """Count from 0 to `count`, with a progress bar named after the stage."""
        self.bar = tqdm(range(count), stage, unit="step", mininterval=1.0)
        yield from self.bar

    def due(self, step: int) -> bool:
        """Whether this step is measured."""
        return step % EVERY == EVERY - 1

    def add(self, stage: str, step: int, **measures: float) -> None:
        """Note measurements of a step."""
        rounded = {name: round(value, 4) for name, value in measures.items()}
        at = {"step": step + 1, "seconds": round(time.perf_counter() - self.start, 1)}
        self.lines.append({"stage": stage, **at, **rounded})
        if self.bar is not None:
            self.bar.set_postfix(rounded)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(self.lines[-1]) + "\n")


class FloatAttention(TorchFunctionMode):
    """While active, attention runs in float32: its bfloat16 backward is slow on CPU."""

    def __torch_function__(  # noqa: D105
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = (part.float() for part in args[:3])
            with torch.autocast(query.device.type, enabled=False):
                return func(query, key, value, *args[3:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))
