"""Which runs of one task can stand in one column."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from lmms_kvtp.leaderboard.cells import Cell
from lmms_kvtp.leaderboard.discover import Found, LeftOut
from lmms_kvtp.leaderboard.gates import GateRecord, gates_of
from lmms_kvtp.leaderboard.provenance import Provenance

FACETS = {
    "tasks": "version of the task",
    "selection": "choice of questions",
    "questions": "set of questions",
    "frames": "frame settings",
    "model": "model",
    "versions": "software versions",
}
"""What must be the same in one column, unless told."""
ALLOW = (*FACETS, "dirty", "gates")


@dataclass(frozen=True)
class Entry:
    """A run of one task, and what it sums up to."""

    found: Found
    cell: Cell

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.provenance.label}, {self.cell.task}: {self.found.path}"

    @property
    def provenance(self) -> Provenance:
        """Where it comes from."""
        return self.found.provenance

    def facet(self, name: str) -> str:
        """What must be the same in one column, as text."""
        record = self.provenance
        values: dict[str, Callable[[], str]] = {
            "tasks": lambda: f"version {record.task_versions.get(self.cell.task, '?')}",
            "selection": self._selection,
            "questions": self._questions,
            "frames": lambda: json.dumps(record.frames, sort_keys=True),
            "model": lambda: record.model,
            "versions": lambda: ", ".join(f"{key} {value}" for key, value in sorted(record.versions.items())),
        }
        return values[name]()

    def _selection(self) -> str:
        """Beta and index of a task of SparseKV-QA; other tasks have none."""
        told = (self.found.results.get("results") or {}).get(self.cell.task) or {}
        return str(told.get("selection,none", "not stated"))

    def _questions(self) -> str:
        assert self.cell.run
        names = [record.question for record in self.cell.run.records]
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
        return f"{len(names)} questions, {names[0]} to {names[-1]}, digest {digest}"


def comparable(
    column: Sequence[Entry], gates: Sequence[GateRecord], allow: Collection[str]
) -> tuple[list[Entry], list[LeftOut]]:
    """Entries of one task that agree with the unpruned model, or else with most of them; and the others, with reasons.

    Args:
        column: of one task.
        gates: what the doctor found.
        allow: names in ALLOW of what may be mixed.
    """
    bases = [entry for entry in column if entry.provenance.unpruned] or list(column)
    kept, refused = list(column), []
    for name, meaning in FACETS.items():
        if name in allow:
            continue
        wanted = Counter(entry.facet(name) for entry in bases if entry in kept).most_common(1)
        for entry in [entry for entry in kept if wanted and entry.facet(name) != wanted[0][0]]:
            kept.remove(entry)
            reason = f"another {meaning}: {entry.facet(name)}, where the table has {wanted[0][0]}; allow with {name}"
            refused.append(LeftOut(entry.title, reason))
    for entry in list(kept):
        record = gates_of(entry.provenance.method, gates)
        if entry.provenance.dirty and "dirty" not in allow:
            reason = f"its tree had changes beside commit {entry.provenance.commit}; commit them, or allow dirty"
        elif record is not None and record.failed and "gates" not in allow:
            reason = f"gates {record.status} ({record.source}); mend the method, or allow gates"
        else:
            continue
        kept.remove(entry)
        refused.append(LeftOut(entry.title, reason))
    return kept, refused
