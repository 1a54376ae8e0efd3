"""Which commands reproduce which table or figure, and what the paper reports for each."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lmms_kvtp.leaderboard.runs import Run, read_runs
from lmms_kvtp.leaderboard.stats import accuracy
from lmms_kvtp.rendering import markdown
from lmms_kvtp.reproduce.paper import TABLE2, TABLE3, TASKS, Row

CHECKPOINTS = {"7b": "lmms-lab/LLaVA-Video-7B-Qwen2", "72b": "lmms-lab/LLaVA-Video-72B-Qwen2"}
FRAMES = "max_frames_num=128,mm_spatial_pool_mode=average,mm_newline_position=grid"
"""As in KVTP's evaluation: 128 frames at most, one a second, 13 x 13 tokens a frame."""
HARNESS_TASKS = {"VideoMME": "skvqa_videomme", "EgoSchema": "skvqa_egoschema", "NExT-QA": "skvqa_nextqa"}
BETAS = (1.5, 1.7, 1.9, 2.1, 2.3)
TEMPERATURES = (5.0, 4.0, 3.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True)
class Step:
    """One command, and what the paper reports for it."""

    name: str
    command: str
    folder: str = ""
    """Where its results go; empty for commands that are no run of the harness."""
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
class Setting:
    """What the user may have elsewhere."""

    out: str = "runs"
    """Folder of all runs."""
    predictor: str = "google/siglip-so400m-patch14-384"
    """Checkpoint of the relevance predictor; untuned SigLIP where it is not given."""
    index: str = "INDEX"
    """Of SparseKV-QA."""


def plan(target: str, setting: Setting) -> Plan:
    """The commands of one target.

    Raises:
        KeyError: there is no such target.
    """
    return {
        "table1": _table1,
        "table2": _table2,
        "table3": _table3,
        "table4": _table4,
        "fig1": _fig1,
        "fig3": _fig3,
        "fig6": _fig6,
        "fig7": _fig7,
    }[target](setting)


TARGETS = ("table1", "table2", "table3", "table4", "fig1", "fig3", "fig6", "fig7")
PREDICTOR = (
    "KVTP rows need a trained relevance predictor: the authors' file (Google Drive, in their repository's README), or "
    "`lmms-kvtp train predictor`; without --predictor they run with untuned SigLIP."
)
INDEX = "All subsets need an index of SparseKV-QA: see docs/skvqa.md."


def _table1(setting: Setting) -> Plan:
    stats = Step("statistics", f"lmms-kvtp skvqa stats {setting.index}")
    return Plan(
        "table1",
        "Statistics of SparseKV-QA",
        (stats,),
        (
            "The paper: full data set 50,812 questions, mean length 245 s, sparsity 1.95; "
            "SparseKV-QA 20,050 questions, 451 s, 3.56.",
            "The command prints both lines for any index, before and after the filter.",
        ),
    )


def _table2(setting: Setting) -> Plan:
    notes = ("Where table 2 and the project page differ, both are in docs/reproduce.md.", PREDICTOR, INDEX)
    return Plan("table2", "LLaVA-Video-7B, 20 % of the tokens", _rows(TABLE2, "7b", "table2", setting), notes)


def _table3(setting: Setting) -> Plan:
    return Plan(
        "table3", "LLaVA-Video-72B, 20 % of the tokens", _rows(TABLE3, "72b", "table3", setting), (PREDICTOR, INDEX)
    )


def _table4(setting: Setting) -> Plan:
    ways = (
        ("GPT assigned", "scorer=oracle", (62.83, 53.33, 75.96), "scores of the index; 0 trained parameters"),
        (
            "KeyVideoLLM",
            "scorer=similarity",
            (61.23, 51.91, 75.80),
            "7.88 B trained parameters in the paper: backbone and projector, re-trained with soft selection. Here the "
            "released weights and untuned SigLIP run, so this row is not reproduced",
        ),
        (
            "KVTP",
            f"scorer=kvtp,encoder.pretrained={setting.predictor}",
            (63.29, 54.71, 76.76),
            "0.88 B trained parameters: all of SigLIP",
        ),
    )
    steps = tuple(
        _run(
            name, "llava_video_kvtp", f"{scorer},pruner=prumerge,keep_ratio=0.2", "7b", "table4", setting, scores, note
        )
        for name, scorer, scores, note in ways
    )
    return Plan("table4", "Ways to assign pruning rates, PruMerge at 20 %", steps, (PREDICTOR, INDEX))


def _fig1(setting: Setting) -> Plan:
    board = f"lmms-kvtp leaderboard {setting.out}/table2 --out {setting.out}/fig1"
    rows = _rows(TABLE2, "7b", "table2", setting)
    return Plan(
        "fig1",
        "Accuracy against FLOPs, mean of the three subsets",
        (*rows, Step("plot", board)),
        ("The runs are those of table 2; the figure's points are the means of its rows.", PREDICTOR, INDEX),
    )


def _fig3(setting: Setting) -> Plan:
    methods = "--method hard+grid --method prumerge --method kvtp+prumerge"
    command = f"lmms-kvtp visualize VIDEO QUESTION --pretrained {CHECKPOINTS['7b']} {methods} --out {setting.out}/fig3"
    return Plan(
        "fig3",
        "What three kinds of pipeline keep of one video",
        (Step("page", command),),
        ("The paper's video is from Perception Test and is not named; there is no number to compare.",),
    )


def _fig6(setting: Setting) -> Plan:
    steps = []
    for beta in BETAS:
        for name, scorer in (("PruMerge", "scorer=uniform,allocator=uniform"), ("PruMerge + KVTP", _kvtp(setting))):
            step = _run(
                f"{name}, beta {beta}",
                "llava_video_kvtp",
                f"{scorer},pruner=prumerge,keep_ratio=0.2",
                "7b",
                "fig6",
                setting,
            )
            steps.append(Step(step.name, f"LMMS_KVTP_SKVQA_BETA={beta} {step.command}", step.folder))
    return Plan(
        "fig6",
        "Gain of KVTP over PruMerge by sparsity threshold",
        tuple(steps),
        (
            "The paper draws beta from 1.5 to 2.3 and prints no values; its text says that the gain grows with beta.",
            PREDICTOR,
            INDEX,
        ),
    )


def _fig7(setting: Setting) -> Plan:
    soft = [(f"temperature {t:g}", f"allocator=softmax,allocator.temperature={t:g}") for t in TEMPERATURES]
    steps = tuple(
        _run(
            name,
            "llava_video_kvtp",
            f"{_kvtp(setting)},{allocator},pruner={'grid' if 'hard' in allocator else 'prumerge'},keep_ratio=0.2",
            "7b",
            "fig7",
            setting,
        )
        for name, allocator in [*soft, ("temperature 0", "allocator=hard")]
    )
    return Plan(
        "fig7",
        "Soft against hard selection",
        steps,
        (
            "The paper draws temperatures from 5 to 0 (the highest 20 % of frames, whole) and prints no values; its "
            "text says that hard selection is far worse, and that harder is better short of it.",
            PREDICTOR,
            INDEX,
        ),
    )


def _rows(rows: tuple[Row, ...], size: str, target: str, setting: Setting) -> tuple[Step, ...]:
    found = []
    for row in rows:
        kvtp = row.name.endswith("+ KVTP")
        settings = f"{_kvtp(setting)},{row.settings}" if kvtp else row.settings
        model_id = row.model_id
        if not kvtp:  # the model id says it all
            settings = "" if model_id != "llava_video_kvtp" else settings
        found.append(_run(row.name, model_id, settings, size, target, setting, row.scores, row.note))
    return tuple(found)


def _kvtp(setting: Setting) -> str:
    return f"scorer=kvtp,encoder.pretrained={setting.predictor}"


def _run(
    name: str,
    model_id: str,
    settings: str,
    size: str,
    target: str,
    setting: Setting,
    scores: tuple[float, float, float] | None = None,
    note: str = "",
) -> Step:
    folder = str(PurePosixPath(setting.out, target, _slug(name)))
    arguments = ",".join(filter(None, [f"pretrained={CHECKPOINTS[size]}", FRAMES, settings]))
    tasks = ",".join(HARNESS_TASKS[task] for task in TASKS)
    command = [
        *("lmms-eval", "--model", model_id, "--model_args", arguments, "--tasks", tasks),
        *("--batch_size", "1", "--log_samples", "--output_path", folder),
    ]
    expected = dict(zip(TASKS, scores, strict=True)) if scores else {}
    return Step(name, shlex.join(command), folder, expected, note)


def _slug(name: str) -> str:
    return name.lower().replace(" + ", "_").replace(", ", "_").replace(" ", "_")


NOT_RUN = "not run"


def beside(plan: Plan) -> str:
    """A Markdown table: for each run of a plan and each subset, here against the paper.

    Raises:
        ValueError: a folder holds something else than results; the message names file and line.
    """
    header = ["row", *(f"{task}, {what}" for task in TASKS for what in ("paper", "here", "difference")), "tokens"]
    return markdown(header, [_row(step) for step in plan.steps if step.folder])


def _row(step: Step) -> list[str]:
    runs = {run.task.removesuffix("_full"): run for run in _read(step)}
    cells = [step.name]
    for task in TASKS:
        reported, run = step.expected.get(task), runs.get(HARNESS_TASKS[task])
        here = accuracy(run) if run else None
        cells += [f"{reported:.2f}" if reported is not None else "-", str(here) if here else NOT_RUN]
        cells.append(f"{here.mean - reported:+.1f}" if here and reported is not None else "-")
    return [*cells, _tokens(list(runs.values()))]


def _read(step: Step) -> list[Run]:
    try:
        return read_runs(Path(step.folder), step.name)
    except FileNotFoundError:
        return []


def _tokens(runs: list[Run]) -> str:
    """Share of vision tokens that entered, as measured."""
    costs = [answer.cost for run in runs for answer in run.answers if answer.cost is not None]
    before = sum(cost.tokens_before for cost in costs)
    return f"{sum(cost.tokens_kept for cost in costs) / before:.1%}" if before else "-"
