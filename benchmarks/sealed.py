"""The rows and contrasts of docs/benchmark_plan.md, on the sealed questions of the embedded benchmark.

    python -m benchmarks.sealed --seconds --out runs       # seconds of an answer by ratio, on the quick subset
    python -m benchmarks.sealed --out runs                 # the sealed questions, once
    python -m benchmarks.sealed --out runs --task skvqa_synth   # the same rows on the development questions

Writes results/sealed.json (or development.json, seconds.json) and the tables between markers of README.md and
docs/benchmark.md. A killed run goes on where it was. TOY: a tiny model on made-up videos.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from scipy.stats import t as student

from lmms_kvtp import __version__
from lmms_kvtp.commands.cells import Variant
from lmms_kvtp.commands.sweep import sweep
from lmms_kvtp.cost.flops import prefill_flops
from lmms_kvtp.cost.sample import timed
from lmms_kvtp.embedded.dataset import SHIPPED_KINDS
from lmms_kvtp.forecast.forecast import TEXT_TOKENS, forecast
from lmms_kvtp.forecast.models import find_spec
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.leaderboard.stats import Estimate, accuracy, difference, holm, p_value
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import FULL, settings_of
from lmms_kvtp.rendering import markdown, write_between
from lmms_kvtp.run.source import tree

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LEVEL, MARGIN = 0.05, 3.0
"""Corrected p-value below which a difference counts, and points within which two rows are level."""
RATIOS = (0.2, 0.1)
FRAMES, MODEL = 128, "llava-video-7b"
"""Size at which operations are made equal."""
SECONDS_RATIOS = (0.2, 0.4, 0.6, 0.8)


def cell(name: str, method: str, ratio: float, **settings: str) -> Variant:
    """A row of its own name: a method with further settings."""
    return Variant(name, ratio, {**settings_of(method, ratio), **settings})


def rows(ratio: float) -> list[Variant]:
    """All rows at one ratio but the unpruned model's."""
    siglip = {"encoder": "siglip"}
    return [
        *(cell(f"random, draw {seed}", "random", ratio, **{"pruner.seed": str(seed)}) for seed in range(3)),
        cell("PruMerge", "prumerge", ratio),
        cell("ToMe", "tome", ratio),
        cell("PruMerge, second tower", "prumerge", ratio, **siglip),
        cell("hard", "hard+grid", ratio),
        cell("similarity + PruMerge", "similarity+prumerge", ratio),
        *(cell(f"KVTP + {name}", f"kvtp+{name.lower()}", ratio) for name in ("random", "ToMe", "PruMerge", "VidCom2")),
        cell("KVTP with anchors + PruMerge", "kvtp+prumerge", ratio, predictor="tiny_anchors"),
        cell("KVTP with shared tower + PruMerge", "kvtp+prumerge", ratio, predictor="tiny_shared"),
        cell("oracle + PruMerge", "oracle+prumerge", ratio),
    ]


def plan(equal: Mapping[str, float]) -> list[Variant]:
    """Every row of the plan, and PruMerge at the ratios that are equal in another way than tokens."""
    full = Variant(FULL, 1.0, settings_of(FULL, 1.0))
    fastv = Variant("FastV", 1.0, {**settings_of(FULL, 1.0), "layer_pruning": "fastv"})
    same = [cell(f"PruMerge, equal {what}", "prumerge", ratio) for what, ratio in equal.items() if ratio < 1]
    return [full, fastv, *(row for ratio in RATIOS for row in rows(ratio)), *same]


def contrasts(equal: Mapping[str, float]) -> list[tuple[str, str]]:
    """The ten pairs of the plan, this less that, by the names of their rows."""
    kvtp = "KVTP + PruMerge 20%"
    operations = "equal operations, 1 question"
    return [
        (kvtp, "PruMerge, second tower 20%"),
        ("KVTP + PruMerge 10%", "PruMerge, second tower 10%"),
        ("KVTP + random 20%", "random, draw 0 20%"),
        ("KVTP + ToMe 20%", "ToMe 20%"),
        (kvtp, "similarity + PruMerge 20%"),
        (kvtp, "hard 20%"),
        (kvtp, FULL),
        ("KVTP with anchors + PruMerge 20%", kvtp),
        ("KVTP with shared tower + PruMerge 20%", "PruMerge 20%"),
        (kvtp, named(f"PruMerge, {operations}", equal[operations.removeprefix("equal ")])),
    ]


def named(row: str, ratio: float) -> str:
    """The full name of a row; with all tokens it is the unpruned model."""
    return Variant(row, ratio, {}).name if ratio < 1 else FULL


def operations(settings: Mapping[str, str], questions: int) -> float:
    """Operations of an answer of the 7B model, where so many questions share a video.

    Encoders are shared by all; a method that no question decides also shares the prefill of the video.
    """
    spec, method = find_spec(MODEL), build_method(settings, {**KVTP, "predictor": "none"})
    cost = forecast(spec, method, FRAMES).cost
    once = sum(cost.flops.get(stage, 0) for stage in ("vision", "projector", "encoder"))
    own = sum(cost.flops.get(stage, 0) for stage in ("scorer", "pruner", "prefill", "generate"))
    if questions > 1 and not method.query_aware:
        prefix = cost.prompt_tokens - TEXT_TOKENS
        once += prefill_flops(spec.llm, [prefix] * spec.llm.layers) + cost.flops.get("pruner", 0)
        text = prefill_flops(spec.llm, [TEXT_TOKENS] * spec.llm.layers, reused=prefix)
        own = text + cost.flops.get("generate", 0)
    return own + once / questions


def equal_operations(questions: int) -> float:
    """The ratio at which PruMerge alone takes the operations of KVTP + PruMerge at 20 %; 1 where all tokens take less.

    The fusion head's operations, 0.003 % of an answer, are left out: forecasts know no trained predictor.
    """
    wanted = operations(settings_of("similarity+prumerge", 0.2), questions)
    low, high = 0.2, 1.0
    if operations(settings_of("prumerge", 1.0), questions) <= wanted:
        return 1.0
    for _ in range(20):
        middle = (low + high) / 2
        below = operations(settings_of("prumerge", middle), questions) <= wanted
        low, high = (middle, high) if below else (low, middle)
    return round(low, 3)


def equal_seconds(found: Mapping[str, float]) -> float:
    """The ratio at which PruMerge alone takes the seconds of KVTP + PruMerge at 20 %, between measured ratios."""
    wanted, points = (
        found["KVTP + PruMerge 20%"],
        [(ratio, found[f"PruMerge {100 * ratio:g}%"]) for ratio in SECONDS_RATIOS],
    )
    points.append((1.0, found[FULL]))
    if points[-1][1] <= wanted:
        return 1.0
    for (left, fast), (right, slow) in pairwise(points):
        if fast <= wanted < slow:
            return round(left + (right - left) * (wanted - fast) / (slow - fast), 3)
    return 0.2


def seconds(out: Path) -> dict[str, float]:
    """Mean seconds of an answer on the quick subset: all tokens, KVTP, PruMerge by ratio; each alone, in two turns."""
    cells = [Variant(FULL, 1.0, settings_of(FULL, 1.0))]
    cells += [cell("PruMerge", "prumerge", ratio) for ratio in SECONDS_RATIOS]
    cells += [cell("KVTP + PruMerge", "kvtp+prumerge", 0.2)]
    cells += [cell("KVTP with shared tower + PruMerge", "kvtp+prumerge", 0.2, predictor="tiny_shared")]
    taken: dict[str, list[float]] = {}
    for turn in range(2):
        for one in cells:
            [run] = sweep([one], "skvqa_synth_quick", "pretrained=tiny", out / f"turn{turn}" / one.folder)
            taken.setdefault(one.name, []).append(fmean(cost.seconds_total for cost in timed(run.costs)))
    return {name: fmean(values) for name, values in taken.items()}


def judged(gap: Estimate, corrected: float, videos: int) -> str:
    """A difference in words: found, level within the margin, or open."""
    half = float(student.ppf(0.95, videos - 1)) * gap.stderr
    low, high = gap.mean - half, gap.mean + half
    if corrected < LEVEL:
        return "more" if gap.mean > 0 else "less"
    if low > -MARGIN:
        return "level" if high < MARGIN else "not less"
    return "open"


def contrast_table(runs: Mapping[str, Run], pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[list[str]]]:
    """The contrasts, corrected together."""
    gaps = [difference(runs[this], runs[that]) for this, that in pairs]
    videos = len({answer.video for answer in next(iter(runs.values())).answers})
    corrected = holm([p_value(gap, videos) for gap in gaps])
    lines = []
    for number, ((this, that), gap, p) in enumerate(zip(pairs, gaps, corrected, strict=True), start=1):
        words = judged(gap, p, videos)
        lines.append([str(number), this, that, f"{gap.mean:+.1f} ± {gap.stderr:.1f}", f"{p:.2g}", words])
    return ["", "this", "less that", "points", "p, corrected", "verdict"], lines


def row_table(runs: Mapping[str, Run]) -> tuple[list[str], list[list[str]]]:
    """Accuracies, differences to all tokens, and by kind of question."""
    full = runs[FULL]
    header = ["method", "of all tokens", "accuracy", "against all tokens", "seconds", *SHIPPED_KINDS]
    lines = []
    for name, run in runs.items():
        kept = fmean(cost.keep_ratio_actual for cost in run.costs)
        gap = "-" if run is full else str(difference(run, full))
        kinds = [f"{accuracy(run.of_kind(kind)).mean:.0f}" for kind in SHIPPED_KINDS]
        took = fmean(cost.seconds_total for cost in timed(run.costs))
        lines.append([name, f"{100 * kept:.1f} %", str(accuracy(run)), gap, f"{took:.2f}", *kinds])
    return header, lines


HEADLINE = (
    *(FULL, "random, draw 0 20%", "PruMerge 20%", "hard 20%", "similarity + PruMerge 20%", "KVTP + random 20%"),
    *("KVTP + PruMerge 20%", "KVTP with anchors + PruMerge 20%", "KVTP with shared tower + PruMerge 20%"),
    *("oracle + PruMerge 20%",),
)
"""Rows of the README's table, before those at equal operations and seconds."""


def main() -> None:
    """Run what was asked for, and write results and tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps")
    parser.add_argument("--task", default="skvqa_synth_sealed", help="skvqa_synth_sealed (default) or skvqa_synth")
    parser.add_argument("--seconds", action="store_true", help="only measure seconds by ratio")
    options = parser.parse_args()
    common = {"version": __version__, "commit": tree(ROOT).get("commit", "")}
    if options.seconds:
        measured = seconds(options.out / "seconds")
        _write("seconds", {**common, "seconds": measured, "equal_seconds": equal_seconds(measured)})
        return
    measured = json.loads((RESULTS / "seconds.json").read_text(encoding="utf-8"))
    equal = {f"operations, {n} question{'s' * (n > 1)}": equal_operations(n) for n in (1, 4)}
    equal["seconds"] = measured["equal_seconds"]
    found = {run.name: run for run in sweep(plan(equal), options.task, "pretrained=tiny", options.out / options.task)}
    sealed = options.task == "skvqa_synth_sealed"
    table, tested = row_table(found), contrast_table(found, contrasts(equal))
    print(f"{markdown(*table)}\n\n{markdown(*tested)}")
    command = "python -m benchmarks.sealed --out runs" + ("" if sealed else f" --task {options.task}")
    _write(
        "sealed" if sealed else "development",
        {**common, "command": command, "equal": equal, "rows": table, "contrasts": tested},
    )
    write_between(ROOT / "docs" / "benchmark.md", markdown(*table), "sealed" if sealed else "development")
    if sealed:
        write_between(ROOT / "docs" / "benchmark.md", markdown(*tested), "contrasts")
        short = [*HEADLINE, *(named(f"PruMerge, equal {what}", ratio) for what, ratio in equal.items() if ratio < 1)]
        chosen = {name: found[name] for name in dict.fromkeys(short)}
        write_between(ROOT / "README.md", markdown(*row_table(chosen)), "headline")


def _write(name: str, content: Mapping[str, object]) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
