"""The training log: losses and accuracies by stage, kept in memory, mirrored to a JSON-lines file, shown in a bar."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from tqdm import tqdm


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for matrix products: four times float32 on CPUs that have it."""
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
    """Collects measurements; `every` steps one line."""

    def __init__(self, path: Path | None = None, every: int = 25) -> None:
        """`path` of the JSON-lines mirror, if any."""
        self.path, self.every = path, every
        self.start = time.time()
        self.lines: list[dict[str, float | str]] = []
        self.bar: tqdm[int] | None = None

    def steps(self, stage: str, count: int) -> Iterator[int]:
        """Numbers 0 to `count`, with a progress bar named after the stage."""
        self.bar = tqdm(range(count), stage, unit="step", mininterval=1.0)
        yield from self.bar

    def due(self, step: int) -> bool:
        """Whether this step is measured."""
        return step % self.every == self.every - 1

    def add(self, stage: str, step: int, **measures: float) -> None:
        """Note measurements of a step."""
        rounded = {name: round(value, 4) for name, value in measures.items()}
        line: dict[str, float | str] = {"stage": stage, "step": step + 1, "seconds": round(time.time() - self.start, 1)}
        line.update(rounded)
        self.lines.append(line)
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
