"""What KVTP (arXiv 2503.10742, ICCV 2025) reports: figures to compare with, never measured here.

Its tables 2 and 3 and its project page (the repository's README) disagree for the baselines; both stand here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TASKS = ("VideoMME", "EgoSchema", "NExT-QA")
"""Subsets of SparseKV-QA, in the order of tables 2 and 3. Table 4 prints NExT-QA before EgoSchema."""

Scores = tuple[float, float, float]

EQUAL = "scorer=uniform,allocator=uniform"
FULL = f"{EQUAL},pruner=none,keep_ratio=1"
HARD = "scorer=similarity,allocator=hard,pruner=grid,keep_ratio=0.2"


@dataclass(frozen=True)
class Row:
    """A row of table 2 or 3."""

    name: str
    model_id: str
    """Of the harness, in this package."""
    settings: str
    """As in `--model_args`, for commands that know no model ids."""
    flops: int
    """In % of the unpruned model: the table's."""
    scores: Scores
    """Accuracy in %: the table's."""
    page_flops: int
    """In %: the project page's."""
    page_scores: Scores
    note: str = ""

    @property
    def pages_agree(self) -> bool:
        """Table and project page say the same."""
        return (self.flops, self.scores) == (self.page_flops, self.page_scores)


RETRAINED = "the paper re-trained backbone and projector for it; here the released weights run"

TABLE2 = (
    Row("LLaVA-Video-7B", "llava_video", FULL, 100, (62.63, 54.17, 78.51), 100, (62.63, 54.17, 78.51)),
    Row(
        "Random Sampling",
        "llava_video_random",
        f"{EQUAL},pruner=random,keep_ratio=0.2",
        28,
        (58.28, 50.69, 75.20),
        36,
        (58.28, 50.69, 75.66),
    ),
    Row(
        "ToMe",
        "llava_video_tome",
        f"{EQUAL},pruner=tome,keep_ratio=0.2",
        30,
        (58.90, 51.45, 72.19),
        38,
        (59.21, 51.83, 72.49),
    ),
    Row(
        "PruMerge",
        "llava_video_prumerge",
        f"{EQUAL},pruner=prumerge,keep_ratio=0.2",
        28,
        (59.77, 52.49, 75.58),
        36,
        (59.97, 52.76, 75.88),
    ),
    Row(
        "KeyVideoLLM",
        "llava_video_keyvideollm",
        HARD,
        36,
        (51.32, 46.78, 64.33),
        36,
        (51.32, 46.78, 64.33),
        RETRAINED,
    ),
    Row(
        "FastV",
        "llava_video_fastv",
        f"{FULL},layer_pruning=fastv",
        64,
        (61.79, 52.42, 77.89),
        64,
        (61.79, 52.42, 77.89),
    ),
    Row(
        "Random Sampling + KVTP",
        "llava_video_kvtp",
        "pruner=random,keep_ratio=0.2",
        36,
        (60.16, 52.73, 76.50),
        36,
        (60.16, 52.73, 76.50),
    ),
    Row(
        "ToMe + KVTP",
        "llava_video_kvtp",
        "pruner=tome,keep_ratio=0.2",
        38,
        (62.36, 53.24, 75.88),
        38,
        (62.36, 53.24, 75.88),
    ),
    Row(
        "PruMerge + KVTP",
        "llava_video_kvtp",
        "pruner=prumerge,keep_ratio=0.2",
        36,
        (63.29, 54.71, 76.76),
        36,
        (63.29, 54.71, 76.76),
    ),
)

_LARGE: Mapping[str, tuple[int, Scores, int, Scores]] = {
    "LLaVA-Video-7B": (100, (69.52, 65.76, 83.20), 100, (69.52, 65.76, 83.20)),
    "Random Sampling": (21, (62.37, 60.47, 78.93), 23, (62.57, 60.55, 79.03)),
    "ToMe": (21, (62.89, 61.22, 76.45), 23, (62.93, 61.34, 76.52)),
    "PruMerge": (21, (64.52, 63.11, 80.74), 23, (64.62, 63.20, 80.89)),
    "KeyVideoLLM": (23, (60.49, 55.23, 76.45), 23, (60.49, 55.23, 76.45)),
    "FastV": (56, (66.25, 63.56, 80.34), 56, (66.25, 63.56, 80.34)),
    "Random Sampling + KVTP": (23, (64.32, 62.19, 80.12), 23, (64.32, 62.19, 80.12)),
    "ToMe + KVTP": (23, (65.77, 63.61, 79.51), 23, (65.77, 63.61, 79.51)),
    "PruMerge + KVTP": (23, (67.34, 64.12, 81.21), 23, (67.34, 64.12, 81.21)),
}

TABLE3 = tuple(
    Row(row.name.replace("7B", "72B"), row.model_id, row.settings, *_LARGE[row.name], note=row.note) for row in TABLE2
)
ROWS: Mapping[str, tuple[Row, ...]] = {"llava-video-7b": TABLE2, "llava-video-72b": TABLE3}
