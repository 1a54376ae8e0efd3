"""Rows that papers report: never measured here, always marked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).parent / "reported.json"


@dataclass(frozen=True)
class Reported:
    """A published row."""

    model: str
    """With frames and data: only rows that share it can be compared."""
    method: str
    keep_ratio: float
    source: str
    scores: Mapping[str, float] = field(default_factory=dict)
    """Accuracy in %, by benchmark."""
    relative: float | None = None
    """Mean accuracy over the paper's benchmarks, in % of its own unpruned model."""
    relative_flops: float | None = None
    """In % of the unpruned model, by the paper's own count."""
    note: str = ""


def reported() -> list[Reported]:
    """All published rows, in the order of the file."""
    return [Reported(**row) for row in json.loads(FILE.read_text(encoding="utf-8"))]
