"""What an answer cost: counts, seconds and operations per stage, carried beside the text."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

STAGES = ("decode", "preprocess", "vision", "encoder", "scorer", "pruner", "prefill", "generate")
SHARED = ("decode", "preprocess", "vision", "encoder")
"""Stages that the questions on one video share."""


@dataclass(frozen=True)
class SampleCost:
    """The ledger of one answer. Shared stages stand in full on each question; `questions_on_video` divides them."""

    num_frames: int = 0
    tokens_before: int = 0
    """Vision tokens without pruning."""
    tokens_kept: int = 0
    """Vision tokens that entered the language model."""
    tokens_structural: int = 0
    """Newlines that entered beside them."""
    prompt_tokens: int = 0
    """All positions of the prompt."""
    output_tokens: int = 0
    keep_ratio: float = 1.0
    """What was asked for."""
    layer_lengths: tuple[int, ...] = ()
    """Prompt positions that each layer processed."""
    questions_on_video: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds of each stage in STAGES that ran."""
    flops: dict[str, int] = field(default_factory=dict)
    """Operations (2 per multiply-add) of each stage in STAGES that has a closed form; see docs/costs.md."""
    peak_bytes: int | None = None
    """Peak memory of the accelerator while answering; None on the CPU, where no such counter is exact."""

    @property
    def keep_ratio_actual(self) -> float:
        """Vision tokens that entered over those of the unpruned model; 1 where there are none."""
        return self.tokens_kept / self.tokens_before if self.tokens_before else 1.0

    @property
    def seconds_total(self) -> float:
        """Seconds of this answer, shared stages divided among the questions on the video."""
        shared = sum(self.seconds.get(stage, 0.0) for stage in SHARED)
        own = sum(s for stage, s in self.seconds.items() if stage not in SHARED)
        return own + shared / self.questions_on_video

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the derived ones included."""
        return asdict(self) | {"keep_ratio_actual": self.keep_ratio_actual, "seconds_total": self.seconds_total}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "SampleCost":
        """The inverse of `to_dict`."""
        known = {f.name: values[f.name] for f in fields(SampleCost) if f.name in values}
        return SampleCost(**known | {"layer_lengths": tuple(known.get("layer_lengths", ()))})


class Meter:
    """Sums wall seconds per stage; waits for the accelerator at the edges of a stage, so that its work is counted."""

    def __init__(self, device: torch.device, seconds: dict[str, float] | None = None) -> None:
        """Start at `seconds`, or at nothing."""
        self.device = device
        self.seconds = dict(seconds or {})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the block to `name`, also when it fails."""
        self._wait()
        start = time.perf_counter()
        try:
            yield
            self._wait()
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds measured elsewhere."""
        if name not in STAGES:
            raise KeyError(f"no stage {name!r}; stages: {', '.join(STAGES)}")
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


_ledger: dict[str, SampleCost] = {}


def record(doc_key: str, cost: SampleCost) -> None:
    """Keep the cost of a document for the task that scores it in this process."""
    _ledger[doc_key] = cost


def lookup(doc_key: str) -> SampleCost | None:
    """The cost of a document, if a wrapper of ours answered it in this process; the one exchange with tasks."""
    return _ledger.get(doc_key)


def forget() -> None:
    """Drop all costs: another run begins in this process."""
    _ledger.clear()
