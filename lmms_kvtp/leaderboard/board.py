"""Rows of a leaderboard from the runs that can be compared, and a list of what cannot be, with reasons."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lmms_kvtp.cost.mean import SWEPT_MARK, MeanCost
from lmms_kvtp.leaderboard import provenance
from lmms_kvtp.leaderboard.discover import FoundRun, LeftOut, PendingRuns, fault
from lmms_kvtp.leaderboard.gates import NOT_RUN, GateRecord, record_of
from lmms_kvtp.leaderboard.provenance import Provenance, names
from lmms_kvtp.leaderboard.runs import DAMAGE, age, lacks
from lmms_kvtp.leaderboard.stats import Estimate
from lmms_kvtp.leaderboard.task_score import TaskScore, against, average, task_score

FACETS = {
    "tasks": "version of the task",
    "selection": "choice of questions",
    "questions": "set of questions",
    "frames": "frame settings",
    "model": "model",
    "versions": "software versions",
}
"""What must be equal within a column, unless it is allowed to differ."""
ALLOW = (*FACETS, "dirty", "gates")
"""Everything that a user can allow; dirty is of earlier commands, and changes nothing: such rows have a badge."""


@dataclass(frozen=True)
class Row:
    """One method on one or more tasks."""

    name: str
    provenance: Provenance
    scores: Mapping[str, TaskScore]
    """Scores by task."""
    relative: Estimate | None
    """Mean relative accuracy over all tasks of the board; None where one is missing."""
    gates: str
    commands: tuple[str, ...]
    notes: Mapping[str, str]
    """What a run says of its own scores, by task, as the harness's results file has it."""

    @property
    def title(self) -> str:
        """Name and ratio, for where rows of one name and several ratios stand together: `KVTP + ToMe, 20%`."""
        ratio = self.provenance.keep_ratio
        return self.name if ratio is None or ratio == 1 else f"{self.name}, {100 * ratio:g}%"

    @property
    def costs(self) -> list[MeanCost]:
        """Costs by task, where answers have any."""
        return [found.cost for found in self.scores.values() if found.cost is not None]

    @property
    def keep_ratio(self) -> float | None:
        """Measured share of vision tokens that entered the language model, over all answers with cost."""
        before = sum(cost.tokens_before * cost.count for cost in self.costs)
        return sum(cost.tokens_kept * cost.count for cost in self.costs) / before if before else None


@dataclass(frozen=True)
class Board:
    """All that the pages show."""

    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    left: tuple[LeftOut, ...]
    """Runs that were refused, and files that hold no run."""
    refused: int
    """Number of refused runs in `left`."""
    notes: tuple[str, ...]


def build(runs: PendingRuns, gates: Sequence[GateRecord] = (), allow: Collection[str] = ()) -> Board:
    """Put together the runs that can be compared, each held against the unpruned run of its model and frames.

    `allow` has names in ALLOW. ValueError where no run is left.
    """
    scored, unread, kept, refused, earlier = [], [], [], [], []
    for run, task, summary in runs.files:
        try:
            file = run.samples[task], run.provenance.label, task, run.results
            scored.append(ScoredRun(run, replace(task_score(summary()), file=file)))
            assert scored[-1].facets  # made here, where what is wrong in them is of one run
        except DAMAGE as error:
            unread.append(LeftOut(f"{run.provenance.label}, {task}: {run.samples[task]}", fault(error)))
    for task in sorted({one.score.task for one in scored}):
        column, floors = _with_floors([one for one in scored if one.score.task == task])
        column, out = comparable(column, gates, allow)
        column, older = _newest(column)
        earlier += [*floors, *older]
        placed = [((one.facets["model"], one.facets["frames"]), one) for one in column]
        bases = {place: one.score for place, one in reversed(placed) if one.provenance.unpruned}  # the first counts
        kept += [replace(one, score=against(one.score, bases[p])) if p in bases else one for p, one in placed]
        refused += out
    left_out = (*refused, *unread, *earlier, *runs.left)
    if not kept:
        reasons = "".join(f"\n  {item.what}: {item.why}" for item in left_out)
        raise ValueError(f"no run is left to show:{reasons}")
    tasks = tuple(dict.fromkeys(one.score.task for one in kept))
    rows = _rows(kept, tasks, gates)
    return Board(tasks, tuple(rows), left_out, len(refused) + len(unread), tuple(_notes(rows)))


@dataclass(frozen=True)
class ScoredRun:
    """A run of one task, and its score."""

    found: FoundRun
    score: TaskScore

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return f"{self.provenance.label}, {self.score.task}: {self.found.path}"

    @property
    def provenance(self) -> Provenance:
        """Where the run comes from."""
        return self.found.provenance

    @cached_property
    def facets(self) -> dict[str, str]:
        """The values of FACETS, as text; only tasks of SparseKV-QA state a selection, their beta and index."""
        assert self.score.run
        origin, task = self.provenance, self.score.task
        told = (self.found.results.get("results") or {}).get(task) or {}
        questions = self.score.run.questions
        digest = hashlib.sha256(json.dumps(questions).encode()).hexdigest()[:8]
        return {
            "tasks": f"version {origin.task_versions.get(task, '?')}",
            "selection": str(told.get("selection,none", "not stated")),
            "questions": f"{len(questions)} questions, {questions[0]} to {questions[-1]}, digest {digest}",
            "frames": json.dumps(origin.frames, sort_keys=True),
            "model": origin.model,
            "versions": ", ".join(f"{key} {value}" for key, value in sorted(origin.versions.items())),
        }

    @property
    def note(self) -> str:
        """What the run says of its own scores on the task; empty for most."""
        notes = provenance.record_of(self.found.results).get("notes")
        return str(notes.get(self.score.task, "")) if isinstance(notes, Mapping) else ""


def comparable(
    column: Sequence[ScoredRun], gates: Sequence[GateRecord], allow: Collection[str]
) -> tuple[list[ScoredRun], list[LeftOut]]:
    """Runs of one task that agree with the unpruned model, or else with most of them; and the others, with reasons."""
    bases = [one for one in column if one.provenance.unpruned] or list(column)
    kept, refused = list(column), []
    for name, meaning in FACETS.items():
        if name in allow:
            continue
        wanted = Counter(one.facets[name] for one in bases if one in kept).most_common(1)
        for one in [one for one in kept if wanted and one.facets[name] != wanted[0][0]]:
            kept.remove(one)
            reason = f"another {meaning}: {one.facets[name]}, where the table has {wanted[0][0]}; allow with {name}"
            refused.append(LeftOut(one.title, reason))
    for one in list(kept):
        record = record_of(one.provenance.method, gates)
        if record is not None and record.failed and "gates" not in allow:
            kept.remove(one)
            reason = f"gates {record.status} ({record.source}); mend the method, or allow gates"
            refused.append(LeftOut(one.title, reason))
    return kept, refused


def _with_floors(column: Sequence[ScoredRun]) -> tuple[list[ScoredRun], list[LeftOut]]:
    """Set aside unpruned runs that differ in batch size or phase from one with those of most methods."""
    unpruned = [one for one in column if one.provenance.unpruned]
    methods = [one for one in column if not one.provenance.unpruned] or column
    usual = Counter(one.provenance.place for one in methods).most_common(1)[0][0]
    bases = [one for one in unpruned if one.provenance.place == usual]
    floors = [one for one in unpruned if one not in bases and any(_differs_in_place(one, base) for base in bases)]
    rest = [one for one in column if one not in floors]
    for number, one in enumerate(rest):
        if one in bases:
            runs = [other.score.run for other in (one, *floors) if other is one or _differs_in_place(other, one)]
            rest[number] = replace(one, score=replace(one.score, again=tuple(run for run in runs if run)))
    why = "all tokens with another batch size or phase: the floor of changed answers, no row"
    return rest, [LeftOut(one.title, why) for one in floors]


def _differs_in_place(one: ScoredRun, base: ScoredRun) -> bool:
    frames = [{**run.provenance.frames, "phase": 0} for run in (one, base)]
    return frames[0] == frames[1] and all(one.facets[name] == base.facets[name] for name in FACETS if name != "frames")


def _newest(column: Sequence[ScoredRun]) -> tuple[list[ScoredRun], list[LeftOut]]:
    """The run of each method that began last, by the runs' records, and the earlier ones."""
    last = {o.provenance.key: o for o in sorted(column, key=lambda one: age(one.found.path, one.found.results))}
    told = "an earlier run of a method that ran again (of one date, the last name is the newest); the row is {}"
    older = [one for one in column if one is not last[one.provenance.key]]
    newest = [one for one in column if one is last[one.provenance.key]]
    return newest, [LeftOut(one.title, told.format(last[one.provenance.key].found.path)) for one in older]


def _rows(kept: Sequence[ScoredRun], tasks: Sequence[str], gates: Sequence[GateRecord]) -> list[Row]:
    groups: dict[str, list[ScoredRun]] = {}
    for one in kept:
        groups.setdefault(one.provenance.key, []).append(one)
    rows = []
    for name, group in zip(names([group[0].provenance for group in groups.values()]), groups.values(), strict=True):
        scores = {one.score.task: one.score for one in group}
        known = [found.relative for found in scores.values() if found.relative is not None]
        record = record_of(group[0].provenance.method, gates)
        commands = tuple(dict.fromkeys(one.provenance.command for one in group))
        notes = {one.score.task: one.note for one in group if one.note}
        relative, gated = average(known) if len(known) == len(tasks) else None, record.status if record else NOT_RUN
        rows.append(Row(name, group[0].provenance, scores, relative, gated, commands, notes))
    return sorted(rows, key=lambda row: (-(row.provenance.keep_ratio or 0), row.name))


def _notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of rows that are shown."""
    notes = []
    if any(row.provenance.toy for row in rows):
        notes.append("TOY: made by the embedded model; such rows show how methods work and fail, no paper's number")
    for row in rows:
        for task, found in row.scores.items():
            if task in row.notes:
                notes.append(f"{row.name}, {task}: {row.notes[task]}")
            notes += lacks(f"{row.name}, {task}", found.accuracy.count, found.failed, found.costless)
    swept = [row.name for row in rows if any(found.cost and found.cost.swept for found in row.scores.values())]
    if swept:
        notes.append(
            f"seconds marked {SWEPT_MARK} ({', '.join(swept)}) are of a sweep, whose methods share encoders and "
            "decoders; run a method alone, by its command, for seconds of its own"
        )
    if not any(row.provenance.unpruned for row in rows):
        notes.append("no row is the unpruned model, so that no accuracy is shown relative to it")
    return notes
