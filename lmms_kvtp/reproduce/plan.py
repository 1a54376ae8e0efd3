"""Which commands reproduce which table or figure of the paper, and finished runs beside its figures."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lmms_kvtp.leaderboard.provenance import paper_rows
from lmms_kvtp.leaderboard.runs import read_runs
from lmms_kvtp.rendering import markdown

CHECKPOINTS = {"7b": "lmms-lab/LLaVA-Video-7B-Qwen2", "72b": "lmms-lab/LLaVA-Video-72B-Qwen2"}
FRAMES = "settings=paper,max_frames_num=128"
"""Settings of KVTP's evaluation: 128 frames at most, one a second, 13 x 13 tokens a frame, any number of them."""
HARNESS_TASKS = {"VideoMME": "skvqa_videomme", "EgoSchema": "skvqa_egoschema", "NExT-QA": "skvqa_nextqa"}
"""Subsets of SparseKV-QA, in the order of tables 2 and 3. Table 4 prints NExT-QA before EgoSchema."""
BETAS = (1.5, 1.7, 1.9, 2.1, 2.3)
TEMPERATURES = (5.0, 4.0, 3.0, 2.0, 1.0, 0.5)
NOT_RUN = "not run"
TARGETS = ("table1", "table2", "table3", "table4", "fig1", "fig3", "fig6", "fig7")
TEXTS = Path(__file__).parent / "targets.json"
"""Titles of the targets, what a reader must know of each, the paper's table whose rows it runs, and other commands."""


@dataclass(frozen=True)
class Step:
    """One command, and what the paper reports for it."""

    name: str
    command: str
    folder: str = ""
    """Folder of its results; empty for commands that do not run the harness."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """Accuracy in %, by the paper's names of the subsets."""
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """A table or figure."""

    title: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """Where the user keeps what the commands read and write."""

    out: str = "runs"
    """Folder of all runs."""
    predictor: str = ""
    """Trained relevance predictor; empty: the rows run with the untuned SigLIP, and say so."""
    index: str = "INDEX"
    """Index of SparseKV-QA."""

    @property
    def kvtp(self) -> str:
        """Settings of KVTP with the predictor."""
        return f"scorer=kvtp,predictor={self.predictor or 'none'}"


def plan(target: str, places: Places) -> Plan:
    """The commands of one of TARGETS."""
    told = json.loads(TEXTS.read_text(encoding="utf-8"))
    facts = told["targets"][target]
    steps = _table_rows(facts["rows_of_table"], places) if "rows_of_table" in facts else []
    curve = {"fig6": _betas, "fig7": _temperatures}.get(target)
    steps += curve(places) if curve else []
    names = {"index": places.index, "out": places.out, "checkpoint": CHECKPOINTS["7b"]}
    steps += [Step(name, command.format(**names)) for name, command in facts.get("commands", {}).items()]
    return Plan(facts["title"], tuple(steps), tuple(told["shared_notes"].get(note, note) for note in facts["notes"]))


def _betas(places: Places) -> list[Step]:
    steps = []
    for beta in BETAS:
        for name, scorer in (("PruMerge", "scorer=uniform,allocator=uniform"), ("PruMerge + KVTP", places.kvtp)):
            step = _run(places, "fig6", f"{name}, beta {beta}", f"{scorer},pruner=prumerge,keep_ratio=0.2")
            steps.append(Step(step.name, f"LMMS_KVTP_SKVQA_BETA={beta} {step.command}", step.folder))
    return steps


def _temperatures(places: Places) -> list[Step]:
    ways = [(f"temperature {t:g}", f"allocator=softmax,allocator.temperature={t:g}", "prumerge") for t in TEMPERATURES]
    return [
        _run(places, "fig7", name, f"{places.kvtp},{allocator},pruner={pruner},keep_ratio=0.2")
        for name, allocator, pruner in [*ways, ("temperature 0", "allocator=hard", "grid")]
    ]


def _table_rows(table: int, places: Places) -> list[Step]:
    steps = []
    for row in paper_rows(table):
        settings = row.settings if "scorer=" in row.settings else f"{places.kvtp},{row.settings}"
        if row.model_id != "llava_video_kvtp":
            settings = ""  # the other ids imply their settings
        size = "72b" if "72B" in row.model else "7b"
        told = f"FLOPs x{row.relative_flops:g}% in the table" if row.relative_flops else ""
        note = "; ".join(filter(None, [told, row.note]))
        steps.append(_run(places, f"table{table}", row.method, settings, row.model_id, size, row.scores, note))
    return steps


def _run(
    places: Places,
    target: str,
    name: str,
    settings: str,
    model_id: str = "llava_video_kvtp",
    size: str = "7b",
    expected: Mapping[str, float] | None = None,
    note: str = "",
) -> Step:
    slug = name.lower().replace(" + ", "_").replace(", ", "_").replace(" ", "_")
    folder = str(PurePosixPath(places.out, target, slug))
    arguments = ",".join(filter(None, [f"pretrained={CHECKPOINTS[size]}", FRAMES, settings]))
    tasks = ",".join(HARNESS_TASKS.values())
    command = [
        *("lmms-eval", "--model", model_id, "--model_args", arguments, "--tasks", tasks),
        *("--batch_size", "1", "--log_samples", "--output_path", folder),
    ]
    untuned = "here KVTP, untuned" if "scorer=kvtp,predictor=none" in settings else ""
    return Step(name, shlex.join(command), folder, expected or {}, "; ".join(filter(None, [untuned, note])))


def beside(plan: Plan) -> str:
    """A Markdown table: for each run of a plan and each subset, the figure here (stock parser) beside the paper's.

    ValueError names file and line where a folder holds something else than results.
    """
    whats = ("paper", "here", "difference")
    header = ["row", *(f"{task}, {what}" for task in HARNESS_TASKS for what in whats), "tokens"]
    return markdown(header, [_beside(step) for step in plan.steps if step.folder])


def _beside(step: Step) -> list[str]:
    from lmms_kvtp.leaderboard.stats import accuracy  # loads the harness: seconds, so not for a dry run

    try:
        runs = {run.task.removesuffix("_full"): run for run in read_runs(Path(step.folder), step.name)}
    except FileNotFoundError:
        runs = {}
    cells = [next((run.title for run in runs.values()), step.name)]
    for task, name in HARNESS_TASKS.items():
        reported, run = step.expected.get(task), runs.get(name)
        here = accuracy(run.by_stock()) if run else None
        cells += [f"{reported:.2f}" if reported is not None else "-", str(here) if here else NOT_RUN]
        cells.append(f"{here.mean - reported:+.1f}" if here and reported is not None else "-")
    costs = [cost for run in runs.values() for cost in run.costs]
    before = sum(cost.tokens_before for cost in costs)
    return [*cells, f"{sum(cost.tokens_kept for cost in costs) / before:.1%}" if before else "-"]
