"""The doctor's record of a method, which a leaderboard looks for beside the runs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmms_kvtp.doctor.gates import Gate
from lmms_kvtp.method import Method


def to_record(method: Method, model: str, gates: Sequence[Gate]) -> dict[str, Any]:
    """Plain values: what was examined, on which model, and what every gate found."""
    described: dict[str, Any] = json.loads(json.dumps(method.describe(), default=str))
    return {"method": described, "model": model, "gates": [asdict(gate) for gate in gates]}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON; the folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
