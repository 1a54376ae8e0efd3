"""Two indexes: where they differ, and both as one."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_kvtp.skvqa.entry import Entry
from lmms_kvtp.skvqa.stats import Criteria

Key = tuple[str, str]


@dataclass(frozen=True)
class Difference:
    """How index b differs from index a."""

    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    changed: tuple[Key, ...]
    """In both, with other scores, frames or refined question."""
    kept_only_a: tuple[Key, ...]
    """In both, and only a's scores meet the criteria."""
    kept_only_b: tuple[Key, ...]
    mean_score_change: float
    """Mean absolute difference of clip scores over questions with the same clips."""


def diff(a: Sequence[Entry], b: Sequence[Entry], criteria: Criteria) -> Difference:
    """Compare question by question."""
    ours, theirs = {_key(entry): entry for entry in a}, {_key(entry): entry for entry in b}
    both = [key for key in ours if key in theirs]
    kept_a = {key for key in both if criteria.keep(ours[key])}
    kept_b = {key for key in both if criteria.keep(theirs[key])}
    changes = [
        abs(x - y)
        for key in both
        if len(ours[key].clip_scores) == len(theirs[key].clip_scores)
        for x, y in zip(ours[key].clip_scores, theirs[key].clip_scores, strict=True)
    ]
    return Difference(
        only_a=tuple(key for key in ours if key not in theirs),
        only_b=tuple(key for key in theirs if key not in ours),
        changed=tuple(key for key in both if _content(ours[key]) != _content(theirs[key])),
        kept_only_a=tuple(key for key in both if key in kept_a - kept_b),
        kept_only_b=tuple(key for key in both if key in kept_b - kept_a),
        mean_score_change=sum(changes) / len(changes) if changes else 0.0,
    )


def merge(parts: Sequence[Sequence[Entry]]) -> list[Entry]:
    """All entries; a question may be in several parts if they agree on it.

    Raises:
        ValueError: two parts have the same question with other content, or were made by other models.
    """
    merged: dict[Key, Entry] = {}
    conflicts = []
    for entry in (entry for part in parts for entry in part):
        if merged.setdefault(_key(entry), entry) != entry:
            conflicts.append("/".join(_key(entry)))
    if conflicts:
        shown = ", ".join(conflicts[:5])
        raise ValueError(f"{len(conflicts)} questions differ between the indexes, such as {shown}; see skvqa diff")
    for dataset in {entry.dataset for entry in merged.values()}:
        made = {_origin(entry) for entry in merged.values() if entry.dataset == dataset}
        if len(made) > 1:
            raise ValueError(
                f"the entries of {dataset} were made in {len(made)} ways: {'; '.join(sorted(made))}; scores of "
                "different models or settings are not comparable, so an index has one of each"
            )
    return list(merged.values())


def _key(entry: Entry) -> Key:
    return entry.dataset, entry.question_id


def _content(entry: Entry) -> tuple[object, ...]:
    return entry.num_frames, entry.clip_size, entry.clip_scores, entry.refined


def _origin(entry: Entry) -> str:
    models = ", ".join(f"{part} {name}" for part, name in sorted(entry.models.items()))
    return f"{models}, prompts {entry.prompts or '-'}, temperature {entry.temperature:g}"
