"""Which commands reproduce which table or figure of the paper, and finished runs beside its figures."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from lmms_kvtp.leaderboard.provenance import paper_rows
from lmms_kvtp.leaderboard.runs import Run, read_runs
from lmms_kvtp.rendering import markdown

CHECKPOINTS = {"7b": "lmms-lab/LLaVA-Video-7B-Qwen2", "72b": "lmms-lab/LLaVA-Video-72B-Qwen2"}
FRAMES = "settings=paper,max_frames_num=128"
"""Settings of KVTP's evaluation: 128 frames at most, one a second, 13 x 13 tokens a frame, any number of them."""
HARNESS_TASKS = {"VideoMME": "skvqa_videomme", "EgoSchema": "skvqa_egoschema", "NExT-QA": "skvqa_nextqa"}
"""Subsets of SparseKV-QA, in the order of tables 2 and 3. Table 4 prints NExT-QA before EgoSchema."""
BETAS = (1.5, 1.7, 1.9, 2.1, 2.3)
TEMPERATURES = (5.0, 4.0, 3.0, 2.0, 1.0, 0.5)
NOT_RUN = "not run"


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

    target: str
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
    """The commands of one target; KeyError where there is no such target."""
    return PLANS[target](places)


PREDICTOR = (
    "KVTP rows need a trained relevance predictor: the authors' file (Google Drive, in their repository's README), or "
    "`lmms-kvtp train predictor --recipe paper`; without --predictor they run as `KVTP, untuned`."
)
SHARE = "All rows run at 20 % of the tokens here; the paper leaves the share of its baselines open (docs/costs.md)."
INDEX = "All subsets need an index of SparseKV-QA: see docs/skvqa.md."


def _table1(places: Places) -> Plan:
    stats = Step("statistics", f"lmms-kvtp skvqa stats {places.index}")
    notes = (
        "The paper: full data set 50,812 questions, mean length 245 s, sparsity 1.95; "
        "SparseKV-QA 20,050 questions, 451 s, 3.56.",
        "The command prints both lines for any index, before and after the filter.",
    )
    return Plan("table1", "Statistics of SparseKV-QA", (stats,), notes)


def _rows_of(table: int, title: str, places: Places) -> Plan:
    notes = (PREDICTOR, INDEX) if table == 4 else (SHARE, PREDICTOR, INDEX)
    return Plan(f"table{table}", title, _table_rows(table, places), notes)


def _fig1(places: Places) -> Plan:
    board = Step("plot", f"lmms-kvtp leaderboard {places.out}/table2 --out {places.out}/fig1")
    notes = ("The runs are those of table 2; the figure's points are the means of its rows.", PREDICTOR, INDEX)
    steps = (*_table_rows(2, places), board)
    return Plan("fig1", "Accuracy against FLOPs, mean of the three subsets", steps, notes)


def _fig3(places: Places) -> Plan:
    methods = "--method hard+grid --method prumerge --method kvtp+prumerge"
    command = f"lmms-kvtp visualize VIDEO QUESTION --pretrained {CHECKPOINTS['7b']} {methods} --out {places.out}/fig3"
    notes = ("The paper's video is from Perception Test and is not named; there is no number to compare.",)
    return Plan("fig3", "What three kinds of pipeline keep of one video", (Step("page", command),), notes)


def _fig6(places: Places) -> Plan:
    steps = []
    for beta in BETAS:
        for name, scorer in (("PruMerge", "scorer=uniform,allocator=uniform"), ("PruMerge + KVTP", places.kvtp)):
            step = _run(places, "fig6", f"{name}, beta {beta}", f"{scorer},pruner=prumerge,keep_ratio=0.2")
            steps.append(Step(step.name, f"LMMS_KVTP_SKVQA_BETA={beta} {step.command}", step.folder))
    notes = (
        "The paper draws beta from 1.5 to 2.3 and prints no values; its text says that the gain grows with beta.",
        PREDICTOR,
        INDEX,
    )
    return Plan("fig6", "Gain of KVTP over PruMerge by sparsity threshold", tuple(steps), notes)


def _fig7(places: Places) -> Plan:
    ways = [(f"temperature {t:g}", f"allocator=softmax,allocator.temperature={t:g}", "prumerge") for t in TEMPERATURES]
    steps = tuple(
        _run(places, "fig7", name, f"{places.kvtp},{allocator},pruner={pruner},keep_ratio=0.2")
        for name, allocator, pruner in [*ways, ("temperature 0", "allocator=hard", "grid")]
    )
    notes = (
        "The paper draws temperatures from 5 to 0 (the highest 20 % of frames, whole) and prints no values; its "
        "text says that hard selection is far worse, and that harder is better short of it.",
        PREDICTOR,
        INDEX,
    )
    return Plan("fig7", "Soft against hard selection", steps, notes)


PLANS: Mapping[str, Callable[[Places], Plan]] = {
    "table1": _table1,
    "table2": partial(_rows_of, 2, "LLaVA-Video-7B"),
    "table3": partial(_rows_of, 3, "LLaVA-Video-72B"),
    "table4": partial(_rows_of, 4, "Ways to assign pruning rates, PruMerge at 20 %"),
    "fig1": _fig1,
    "fig3": _fig3,
    "fig6": _fig6,
    "fig7": _fig7,
}
TARGETS = tuple(PLANS)


def _table_rows(table: int, places: Places) -> tuple[Step, ...]:
    steps = []
    for row in paper_rows(table):
        settings = row.settings if "scorer=" in row.settings else f"{places.kvtp},{row.settings}"
        if row.model_id != "llava_video_kvtp":
            settings = ""  # the other ids imply their settings
        size = "72b" if "72B" in row.model else "7b"
        told = f"FLOPs x{row.relative_flops:g}% in the table" if row.relative_flops else ""
        note = "; ".join(filter(None, [told, row.note]))
        steps.append(_run(places, f"table{table}", row.method, settings, row.model_id, size, row.scores, note))
    return tuple(steps)


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

    runs = {run.task.removesuffix("_full"): run for run in _finished(step)}
    cells = [next((run.title for run in runs.values()), step.name)]
    for task, name in HARNESS_TASKS.items():
        reported, run = step.expected.get(task), runs.get(name)
        here = accuracy(run.by_stock()) if run else None
        cells += [f"{reported:.2f}" if reported is not None else "-", str(here) if here else NOT_RUN]
        cells.append(f"{here.mean - reported:+.1f}" if here and reported is not None else "-")
    return [*cells, _share_kept(list(runs.values()))]


def _finished(step: Step) -> list[Run]:
    try:
        return read_runs(Path(step.folder), step.name)
    except FileNotFoundError:
        return []


def _share_kept(runs: list[Run]) -> str:
    """Measured share of vision tokens that entered the language model."""
    costs = [cost for run in runs for cost in run.costs]
    before = sum(cost.tokens_before for cost in costs)
    return f"{sum(cost.tokens_kept for cost in costs) / before:.1%}" if before else "-"
