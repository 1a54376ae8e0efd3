"""Accuracy through the harness with the untuned, the trained and the shared predictor of the embedded model, paired.

    nice python benchmarks/predictor_accuracy.py --out build/predictor_accuracy

sweeps `skvqa_synth_quick` there, and writes results/predictor_accuracy.json and the two tables of
docs/predictor.md. A killed run goes on there. Errors are clustered by video. TOY: a tiny model on made-up videos.
`--limit 2` tries it on so many questions, and writes nothing else.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmms_kvtp import __version__
from lmms_kvtp.commands.sweep import plan, sweep
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.leaderboard.stats import accuracy, difference
from lmms_kvtp.predictor.compare import TEMPERATURES
from lmms_kvtp.presets import FULL
from lmms_kvtp.rendering import markdown, write_between

TASK = "skvqa_synth_quick"
PRUNERS, RATIOS, RATIO = ("prumerge", "random"), (0.2, 0.1), 0.1
"""`RATIO` is that of the temperatures: at 0.2 nearly all answers are right."""
UNTUNED = "untuned"
SCORERS = {
    UNTUNED: ("kvtp", ""),
    "trained": ("kvtp/softmax", ",scorer.checkpoint=tiny"),
    "shared": ("shared/softmax", ""),
}
"""What decides how much each frame keeps, and what that takes in `--model_args`."""
RESULTS = Path(__file__).parent / "results" / "predictor_accuracy.json"
PAGE = Path(__file__).parents[1] / "docs" / "predictor.md"


def answered(folder: Path, scorer: str, ratios: Sequence[float], limit: int | None, more: str = "") -> dict[str, Run]:
    """Runs of one scorer with every pruner, by their name; the untuned one brings the unpruned model."""
    preset, settings = SCORERS[scorer]
    methods = [*([FULL] if scorer == UNTUNED else []), *(f"{preset}+{pruner}" for pruner in PRUNERS)]
    common = f"pretrained=tiny,frame_cache={folder.parent / 'frames'}{settings}{more}"
    return {run.name: run for run in sweep(plan(methods, ratios), TASK, common, folder, limit)}


def by_scorer(found: Mapping[str, Mapping[str, Run]]) -> tuple[list[str], list[list[str]]]:
    """Accuracies, and differences to the untuned scorer."""
    header = ["", *found, *(f"{name} - {UNTUNED}" for name in found if name != UNTUNED)]
    rows = []
    for pruner in PRUNERS:
        for ratio in RATIOS:
            runs = {name: found[name][f"{SCORERS[name][0]}+{pruner} {100 * ratio:g}%"] for name in found}
            cells = [str(accuracy(run)) for run in runs.values()]
            gains = [difference(run, runs[UNTUNED]) for name, run in runs.items() if name != UNTUNED]
            cells += [f"{gain.mean:+.1f} ± {gain.stderr:.1f}" for gain in gains]
            rows.append([f"{pruner}, {100 * ratio:g} %", *cells])
    return header, rows


def by_temperature(out: Path, limit: int | None) -> tuple[list[str], list[list[str]]]:
    """Accuracies of the trained predictor at each temperature of the allocation."""
    rows = []
    for temperature in TEMPERATURES:
        more = f",allocator.temperature={temperature:g}"
        runs = answered(out / f"temperature_{temperature:g}", "trained", [RATIO], limit, more)
        rows.append([f"{temperature:g}", *(str(accuracy(run)) for run in runs.values())])
    return ["temperature", *(f"{pruner}, {100 * RATIO:g} %" for pruner in PRUNERS)], rows


def main() -> None:
    """Sweep, and write tables and results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/predictor_accuracy"), help="folder of the sweeps")
    parser.add_argument("--limit", type=int, help="of questions, for a trial")
    options = parser.parse_args()
    out, limit = options.out.resolve(), options.limit
    found = {name: answered(out / name, name, RATIOS, limit) for name in SCORERS}
    full = accuracy(found[UNTUNED][FULL])
    scorers, temperatures = by_scorer(found), by_temperature(out, limit)
    print(f"{markdown(*scorers)}\n\n{markdown(*temperatures)}")
    if limit:
        return
    write_between(PAGE, f"All tokens: {full}.\n\n{markdown(*scorers)}", "accuracy")
    write_between(PAGE, markdown(*temperatures), "temperatures")
    results = {"command": "python benchmarks/predictor_accuracy.py", "version": __version__, "questions": full.count}
    results |= {"full": str(full), "accuracy": scorers, "temperatures": temperatures}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
