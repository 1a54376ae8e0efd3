"""Rows of a leaderboard from the runs that can be compared, and a list of what cannot be, with reasons."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from lmms_kvtp.leaderboard.discover import Found, LeftOut, Readings
from lmms_kvtp.leaderboard.gates import NOT_RUN, GateRecord, gates_of
from lmms_kvtp.leaderboard.provenance import Provenance, names
from lmms_kvtp.leaderboard.runs import SHARED
from lmms_kvtp.leaderboard.stats import Estimate
from lmms_kvtp.leaderboard.task_score import Cell, against, average, cell

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


@dataclass(frozen=True)
class Row:
    """One method on one or more tasks."""

    name: str
    provenance: Provenance
    cells: Mapping[str, Cell]
    """By task."""
    relative: Estimate | None
    """Mean over all tasks of the board; None where one is missing."""
    gates: str
    commands: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name and ratio, for where rows of one name and several ratios stand together: `KVTP + ToMe, 20%`."""
        ratio = self.provenance.keep_ratio
        return self.name if ratio is None or ratio == 1 else f"{self.name}, {100 * ratio:g}%"

    @property
    def keep_ratio(self) -> float | None:
        """Measured share of vision tokens that entered the language model, over all answers with cost."""
        costs = [found.cost for found in self.cells.values() if found.cost is not None]
        before = sum(cost.tokens_before * cost.count for cost in costs)
        return sum(cost.tokens_kept * cost.count for cost in costs) / before if before else None


@dataclass(frozen=True)
class Board:
    """All that the pages show."""

    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    left: tuple[LeftOut, ...]
    refused: int
    """How many of `left` are runs that were refused, not files that hold none."""
    notes: tuple[str, ...]


def build(runs: Readings, gates: Sequence[GateRecord] = (), allow: Collection[str] = ()) -> Board:
    """Put together the runs that can be compared.

    Args:
        runs: that are being read.
        gates: what the doctor found.
        allow: names in ALLOW of what may be mixed.

    Raises:
        ValueError: no run is left.
    """
    entries, unread = _cells(runs)
    kept, refused = [], []
    for task in sorted({entry.cell.task for entry in entries}):
        column, out = comparable([entry for entry in entries if entry.cell.task == task], gates, allow)
        kept += _against_bases(column)
        refused += out
    if not kept:
        reasons = "".join(f"\n  {item.what}: {item.why}" for item in [*refused, *unread, *runs.left])
        raise ValueError(f"no run is left to show:{reasons}")
    tasks = tuple(dict.fromkeys(entry.cell.task for entry in kept))
    rows = _rows(kept, tasks, gates)
    left_out = (*refused, *unread, *runs.left)
    return Board(tasks, tuple(rows), left_out, len(refused) + len(unread), tuple(_notes(rows)))


def _cells(runs: Readings) -> tuple[list[Entry], list[LeftOut]]:
    entries, unread = [], []
    for (run, task), result in zip(runs.files, runs.results, strict=True):
        try:
            entries.append(Entry(run, cell(result())))
        except ValueError as error:
            unread.append(LeftOut(f"{run.provenance.label}, {task}", str(error)))
    return entries, unread


def _against_bases(column: Sequence[Entry]) -> list[Entry]:
    """Compare each with the unpruned run of the same model and frames, where there is one."""
    places = [(entry.facet("model"), entry.facet("frames")) for entry in column]
    bases: dict[tuple[str, str], Cell] = {}
    for place, entry in zip(places, column, strict=True):
        if entry.provenance.unpruned:
            bases.setdefault(place, entry.cell)
    return [
        replace(entry, cell=against(entry.cell, bases[place])) if place in bases else entry
        for place, entry in zip(places, column, strict=True)
    ]


def _rows(kept: Sequence[Entry], tasks: Sequence[str], gates: Sequence[GateRecord]) -> list[Row]:
    groups: dict[str, list[Entry]] = {}
    for entry in kept:
        record = entry.provenance
        key = json.dumps([record.label, record.model, record.method, record.frames, record.seed], sort_keys=True)
        while any(other.cell.task == entry.cell.task for other in groups.get(key, [])):
            key += "+"  # the same method twice on one task: two rows
        groups.setdefault(key, []).append(entry)
    titles = names([group[0].provenance for group in groups.values()])
    rows = []
    for name, group in zip(titles, groups.values(), strict=True):
        cells = {entry.cell.task: entry.cell for entry in group}
        parts = [cells[task].relative for task in tasks if task in cells]
        whole = [part for part in parts if part is not None]
        passed = gates_of(group[0].provenance.method, gates)
        rows.append(
            Row(
                name=name,
                provenance=group[0].provenance,
                cells=cells,
                relative=average(whole) if len(whole) == len(tasks) else None,
                gates=passed.status if passed else NOT_RUN,
                commands=tuple(dict.fromkeys(entry.provenance.command for entry in group)),
            )
        )
    return sorted(rows, key=lambda row: (-(row.provenance.keep_ratio or 0), row.name))


def _notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of rows that are shown."""
    notes = []
    if any(row.provenance.toy for row in rows):
        notes.append("TOY: made by the embedded model; such rows show how methods work and fail, no paper's number")
    for row in rows:
        for task, found in row.cells.items():
            total = found.accuracy.count
            if found.failed:
                notes.append(f"{row.name}, {task}: {found.failed} of {total} questions failed and count as wrong")
            if found.costless:
                notes.append(f"{row.name}, {task}: {found.costless} of {total} answers carry no cost (cached)")
    swept = [row.name for row in rows if any(found.cost and found.cost.swept for found in row.cells.values())]
    if swept:
        notes.append(
            f"seconds marked {SHARED} ({', '.join(swept)}) are of a sweep, whose methods share encoders and decoders; "
            "run a method alone, by its command, for seconds of its own"
        )
    if not any(row.provenance.unpruned for row in rows):
        notes.append("no row is the unpruned model, so that no accuracy is shown relative to it")
    return notes
