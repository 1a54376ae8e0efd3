"""The record that `lmms-kvtp doctor` leaves of a method: how it is written, read, and what it means for a row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmms_kvtp.files import from_json, write_json
from lmms_kvtp.leaderboard.discover import LeftOut
from lmms_kvtp.leaderboard.runs import DAMAGE
from lmms_kvtp.method import Method

PATTERN = "*gates*.json"
NOT_RUN = "not run"
UNIMPORTANT = ("device", "dtype")
"""Settings of a part that differ between machines, for the same method."""


@dataclass(frozen=True)
class Gate:
    """What one gate found."""

    name: str
    passed: bool | None
    """Verdict; None where the gate does not apply, or nothing can be said."""
    detail: str


@dataclass(frozen=True)
class GateRecord:
    """What the doctor found of one method."""

    method: Mapping[str, Any]
    """Settings as `Method.describe` gives them."""
    failed: tuple[str, ...]
    """Names of the gates that did not pass."""
    count: int
    """Gates that ran."""
    source: str

    @property
    def status(self) -> str:
        """`passed 9`, or the names of what failed."""
        return f"failed: {', '.join(self.failed)}" if self.failed else f"passed {self.count}"


def write_record(path: Path, method: Method, model: str, gates: Sequence[Gate]) -> None:
    """Write what was examined, on which model, and what every gate found; the folder is made if it is not there."""
    described: dict[str, Any] = json.loads(json.dumps(method.describe(), default=str))
    content = {"method": described, "model": model, "gates": [asdict(gate) for gate in gates]}
    write_json(path, content)


def find_records(folders: Sequence[Path]) -> tuple[list[GateRecord], list[LeftOut]]:
    """Read the records that lie among the runs; files that are none are left out."""
    found, left = list[GateRecord](), list[LeftOut]()
    for path in sorted({path for folder in folders for path in folder.rglob(PATTERN)}):
        try:
            found += read_records([path])
        except ValueError as error:
            left.append(LeftOut(str(path), str(error)))
    return found, left


def read_records(paths: Iterable[Path]) -> list[GateRecord]:
    """Read records; a file holds one, or a list of them. ValueError names a file that is not the doctor's."""
    found = []
    for path in paths:
        try:
            content = from_json(path.read_bytes())
            for entry in content if isinstance(content, list) else [content]:
                ran = [(str(gate["name"]), gate["passed"]) for gate in entry["gates"] if gate["passed"] is not None]
                failed = tuple(name for name, passed in ran if not passed)
                found.append(GateRecord(entry["method"], failed, len(ran), str(path)))
        except DAMAGE as error:
            raise ValueError(f"{path} is no record of lmms-kvtp doctor: {error!r}") from error
    return found


def record_of(method: Mapping[str, Any], records: Sequence[GateRecord]) -> GateRecord | None:
    """The last record of a method; its ratio may differ, because gates try several."""
    same = [record for record in records if _plain(record.method) == _plain(method)]
    return same[-1] if same else None


def _plain(method: Mapping[str, Any]) -> dict[str, Any]:
    return {
        part: {name: value for name, value in settings.items() if name not in UNIMPORTANT}
        for part, settings in method.items()
        if isinstance(settings, Mapping)
    }
