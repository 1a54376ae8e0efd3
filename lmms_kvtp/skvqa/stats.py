"""Which questions are sparse and long enough, and the statistics of the paper's table 1."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_kvtp.rendering import markdown
from lmms_kvtp.skvqa.entry import DATASETS, Entry

BETA = 2.0
"""Least ratio of the highest to the mean rate; the paper varies it from 1.5 to 2.3 (figure 6)."""
MIN_FRAMES = 64
"""Videos with fewer sampled frames are too short (section 3 of the paper)."""
TABLE_1 = {"full": (50_812, 245.0, 1.95), "SparseKV-QA": (20_050, 451.0, 3.56)}
"""Size, mean length (s) and mean sparsity in the paper's table 1."""


@dataclass(frozen=True)
class Criteria:
    """The two criteria of section 3 that a question of SparseKV-QA meets."""

    beta: float = BETA
    min_frames: int = MIN_FRAMES

    def __post_init__(self) -> None:
        """Refuse values that no question could fail or meet, by ValueError."""
        if not self.beta >= 0:
            raise ValueError(f"beta={self.beta} must be 0 or more; sparsity is 1 where all frames are equal")
        if self.min_frames < 0:
            raise ValueError(f"min_frames={self.min_frames} must be 0 or more")

    def sparse(self, entry: Entry) -> bool:
        """Tell whether max(r) >= beta * alpha."""
        return entry.sparsity >= self.beta

    def long(self, entry: Entry) -> bool:
        """Tell whether N >= min_frames."""
        return entry.num_frames >= self.min_frames

    def keep(self, entry: Entry) -> bool:
        """Tell whether a question meets both criteria."""
        return self.sparse(entry) and self.long(entry)

    def check_training(self, line: Mapping[str, Any]) -> None:
        """Refuse a line of an index that no predictor may learn from: data sets for evaluation exclude training.

        A line without a split is of the user's own data, and is taken. ValueError where it is for evaluation, or misses
        a criterion; the message has the way out.
        """
        sparsity, frames = line.get("sparsity", self.beta), line.get("num_frames", self.min_frames)
        reasons = {
            f"data set {line.get('dataset')} is for evaluation": line.get("split") == "evaluation",
            f"sparsity {sparsity} is below {self.beta:g}": sparsity < self.beta,
            f"{frames} frames are fewer than {self.min_frames}": frames < self.min_frames,
        }
        told = [reason for reason, holds in reasons.items() if holds]
        if told and "split" in line:
            raise ValueError(
                f"{', '.join(told)}: refused for training; `lmms-kvtp skvqa filter` writes what the paper trains on, "
                "and --any-lines takes every line"
            )


@dataclass(frozen=True)
class Filtered:
    """Questions that the criteria keep, and how many they drop for which reason."""

    kept: tuple[Entry, ...]
    only_not_sparse: int
    only_too_short: int
    both: int


def apply_criteria(entries: Iterable[Entry], criteria: Criteria) -> Filtered:
    """Divide the questions by the criteria that they miss."""
    by_met: dict[tuple[bool, bool], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_met[criteria.sparse(entry), criteria.long(entry)].append(entry)
    dropped = (len(by_met[met]) for met in ((False, True), (True, False), (False, False)))
    return Filtered(tuple(by_met[True, True]), *dropped)


def statistics_table(entries: Sequence[Entry], criteria: Criteria) -> str:
    """Write table 1 for these entries, before and after the filter, for each data set and for all, and what is dropped.

    The paper's own rows stand below, with the reasons why they differ.
    """
    rows, told = [], []
    groups = {name: [e for e in entries if e.dataset == name] for name in dict.fromkeys(e.dataset for e in entries)}
    if len(groups) != 1:
        groups["all"] = list(entries)
    for name, members in groups.items():
        filtered = apply_criteria(members, criteria)
        rows += [_row(f"{name}, full", members), _row(f"{name}, filtered", filtered.kept)]
        told.append(
            f"{name}: {len(filtered.kept)} of {len(members)} questions kept (beta {criteria.beta:g}, at least "
            f"{criteria.min_frames} frames); dropped: {filtered.only_not_sparse} only not sparse enough, "
            f"{filtered.only_too_short} only too short, {filtered.both} both"
        )
    rows += [
        [f"paper, all seven, {name}", f"{size:,}", "-", f"{length:.0f} s", f"{sparsity:.2f}"]
        for name, (size, length, sparsity) in TABLE_1.items()
    ]
    header = ["data set", "questions", "videos", "mean length", "mean sparsity"]
    return markdown(header, rows) + "\n\n" + "\n".join([*told, *_differences(entries, criteria)])


def _differences(entries: Sequence[Entry], criteria: Criteria) -> list[str]:
    """Why these statistics need not be those of the paper."""
    full, kept = TABLE_1["full"][0], TABLE_1["SparseKV-QA"][0]
    own = len(apply_criteria(entries, criteria).kept) / len(entries) if entries else 0.0
    missing = [name for name in DATASETS if name not in {entry.dataset for entry in entries}]
    scorers = ", ".join(sorted({entry.models.get("scorer", "?") for entry in entries}))
    temperatures = ", ".join(sorted({f"{entry.temperature:g}" for entry in entries}))
    lacks = f"; not here: {', '.join(missing)}" if missing else ", as here"
    return [
        f"the paper keeps {100 * kept / full:.1f} % of its questions, this index {100 * own:.1f} %; what differs:",
        f"- table 1 has one sum over seven data sets{lacks}",
        f"- scores are GPT-4o's on captions of LLaVA-NeXT there, of {scorers} here",
        f"- the softmax has temperature 1 in the paper and 2 in its released filter, {temperatures} here",
        f"- the paper does not say the beta of table 1 (it varies 1.5 to 2.3), here it is {criteria.beta:g}",
    ]


def _row(name: str, entries: Sequence[Entry]) -> list[str]:
    """Write questions, videos, mean length where it is known, and mean sparsity; means of nothing are 0."""
    videos = {(entry.dataset, entry.video_id) for entry in entries}
    lengths = [entry.duration for entry in entries if entry.duration > 0]
    length = sum(lengths) / len(lengths) if lengths else 0.0
    sparsity = sum(entry.sparsity for entry in entries) / len(entries) if entries else 0.0
    return [name, str(len(entries)), str(len(videos)), f"{length:.0f} s", f"{sparsity:.2f}"]
