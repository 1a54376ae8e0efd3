"""What KVTP (arXiv 2503.10742, ICCV 2025) reports in tables 2 and 3: figures to compare with, never measured here.

The tables and the project page (the repository's README) disagree for the baselines; `paper.csv` has both.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TASKS = ("VideoMME", "EgoSchema", "NExT-QA")
"""Subsets of SparseKV-QA, in the order of tables 2 and 3. Table 4 prints NExT-QA before EgoSchema."""
FILE = Path(__file__).parent / "paper.csv"


@dataclass(frozen=True)
class PaperRow:
    """A row of table 2 or 3."""

    name: str
    model_id: str
    """Id of this package's model in the harness."""
    settings: str
    """Settings as in `--model_args`, for commands that know no model ids."""
    flops: int
    """Operations in the table, in % of the unpruned model's."""
    scores: tuple[float, ...]
    """Accuracy in the table, in %, in the order of TASKS."""
    page_flops: int
    """Operations on the project page, in %."""
    page_scores: tuple[float, ...]
    note: str = ""


def paper_rows() -> Mapping[str, tuple[PaperRow, ...]]:
    """Rows of table 2 (llava-video-7b) and table 3 (llava-video-72b), by model."""
    rows: dict[str, tuple[PaperRow, ...]] = {}
    with FILE.open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            row = PaperRow(
                name=line["row"],
                model_id=line["model_id"],
                settings=line["settings"],
                flops=int(line["FLOPs %"]),
                scores=tuple(float(line[task]) for task in TASKS),
                page_flops=int(line["page FLOPs %"]),
                page_scores=tuple(float(line[f"page {task}"]) for task in TASKS),
                note=line["note"],
            )
            rows[line["model"]] = (*rows.get(line["model"], ()), row)
    return rows
