"""`lmms-kvtp table`: the embedded benchmark's tables and figures, from runs through the harness."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmms_kvtp.commands.arguments import at_least_one, ratios
from lmms_kvtp.commands.cells import Variant, plan
from lmms_kvtp.commands.sweep import sweep
from lmms_kvtp.leaderboard.runs import Run
from lmms_kvtp.presets import FULL, RECIPES, settings_of
from lmms_kvtp.rendering import write_between

PRUNERS = ("random", "grid", "prumerge", "tome")
KINDS = ("similarity", "kvtp", "oracle")
METHODS = (FULL, *PRUNERS, "hard+random", *(f"{how}+{pruner}" for how in KINDS for pruner in PRUNERS))
RATIOS = (0.1, 0.2, 0.4)
HEADLINE = (FULL, "random", "prumerge", "hard+random", "similarity+prumerge", "kvtp+random", "kvtp+prumerge")
"""Rows that are run with every checkpoint, at HEADLINE_RATIO, beside MORE."""
HEADLINE_RATIO = 0.2
SECOND_TOWER = "prumerge, second tower"
MORE = {
    SECOND_TOWER: ("prumerge", {"encoder": "siglip"}),
    "kvtp+prumerge, anchors": ("kvtp+prumerge", {"predictor": "tiny_anchors"}),
    "kvtp+prumerge, shared tower": ("kvtp+prumerge", {"predictor": "tiny_shared"}),
}
"""Main rows that are methods with further settings. The first one is PruMerge with the tower that KVTP has anyway."""
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)
BETAS = (1.5, 1.7, 1.9, 2.1, 2.3)
DRAWN = ("random", "prumerge", "hard+random", "similarity+prumerge", "kvtp+random", "kvtp+prumerge", "oracle+random")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which checkpoints to run, and where runs, tables and figures go."""
    parser.add_argument("--checkpoints", default="tiny", help="the first has all rows, others the main ones")
    parser.add_argument("--task", default="skvqa_synth", help="skvqa_synth (default) or skvqa_synth_quick")
    parser.add_argument("--ratios", type=ratios, default=",".join(map(str, RATIOS)), help="(default %(default)s)")
    parser.add_argument("--methods", default=",".join(METHODS), help="rows (default: all of the page)")
    parser.add_argument("--out", type=Path, required=True, help="the harness's files; a killed run goes on there")
    parser.add_argument("--headline", action="store_true", help="only the main rows, those of every checkpoint")
    parser.add_argument("--no-figures", action="store_true", help="tables alone")
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions")
    parser.add_argument("--into", type=Path, help="folder with docs/benchmark.md, to be written into")


def main(arguments: argparse.Namespace) -> int:
    """Run what is missing, print the tables, and write pages and figures."""
    from lmms_kvtp.embedded.dataset import SHIPPED_KINDS
    from lmms_kvtp.leaderboard import embedded  # loads the harness: seconds, so not for --help

    checkpoints = arguments.checkpoints.split(",")
    more = [
        Variant(name, HEADLINE_RATIO, {**settings_of(method, HEADLINE_RATIO), **settings})
        for name, (method, settings) in MORE.items()
    ]
    main_cells = [*plan(HEADLINE, [HEADLINE_RATIO]), *more]
    rows = plan(arguments.methods.split(","), arguments.ratios, f"pretrained={checkpoints[0]}")
    cells = main_cells if arguments.headline else [*rows, *more]
    folder: Path = arguments.out
    runs = _run(cells, arguments, checkpoints[0], folder / "seed0")
    headline = {cell.name: runs[cell.name] for cell in main_cells if cell.name in runs}
    seeds = {"seed 0": headline}
    for number, checkpoint in enumerate(checkpoints[1:], start=1):
        chosen = [cell for cell in main_cells if cell.name in headline]
        seeds[f"seed {number}"] = _run(chosen, arguments, checkpoint, folder / f"seed{number}")
    partners = {cell.name: alone for cell in cells if (alone := row_alone(cell)) in runs}
    own, second = (Variant(name, HEADLINE_RATIO, {}).name for name in ("prumerge", SECOND_TOWER))
    same = {name: second for name, alone in partners.items() if alone == own and "shared" not in name}
    beside = {n: p for n, p in {**partners, **same}.items() if {n, p} <= headline.keys()}
    short = embedded.table(headline, beside, SHIPPED_KINDS)
    tables = {"headline": short}
    if len(seeds) > 1:
        tables["seeds"] = embedded.seeds_table(seeds)
    if not arguments.headline:
        tables["table"] = embedded.table(runs, partners, SHIPPED_KINDS)
    sys.stdout.write("\n\n".join(tables.values()) + "\n")
    pages: Path = arguments.into or folder
    if arguments.into:
        for name, text in tables.items():
            write_between(pages / "docs" / "benchmark.md", text, name)
    if not (arguments.no_figures or arguments.headline):
        _draw(arguments, checkpoints[0], runs, arguments.ratios, pages / "docs" / "figures")
    return 0


def _run(
    cells: Sequence[Variant], arguments: argparse.Namespace, checkpoint: str, out: Path, task: str | None = None
) -> dict[str, Run]:
    found = sweep(cells, task or arguments.task, f"pretrained={checkpoint}", out, arguments.limit)
    return {run.name: run for run in found}


def row_alone(cell: Variant) -> str:
    """Name the row with the same pruner and equal budgets; empty for rows that have equal budgets already."""
    how, plus, pruner = cell.method.partition(",")[0].partition("+")
    alone = f"uniform+{pruner}" if pruner in RECIPES else pruner  # its name is the whole method
    return Variant(alone, cell.keep_ratio, {}).name if plus and how in KINDS else ""


def _draw(
    arguments: argparse.Namespace, checkpoint: str, runs: Mapping[str, Run], ratios: Sequence[float], folder: Path
) -> None:
    from lmms_kvtp.leaderboard import embedded

    full = runs[FULL]
    lines = {name: [runs[Variant(name, ratio, {}).name] for ratio in ratios] for name in DRAWN}
    by_share = {name: {100 * embedded.kept(run): run for run in own} for name, own in lines.items()}
    embedded.draw_curves(folder / "accuracy_tokens.svg", "vision tokens kept (%)", by_share, full, 10.0, "{:.0f}")

    def at_temperature(method: str, value: float) -> Variant:
        settings = {**settings_of(method, HEADLINE_RATIO), "allocator.temperature": f"{value:g}"}
        return Variant(f"{method} T={value:g}", HEADLINE_RATIO, settings)

    drawn = ("kvtp+random", "kvtp+prumerge", "oracle+random")
    swept = {method: {value: at_temperature(method, value) for value in TEMPERATURES} for method in drawn}
    cells = plan([FULL], []) + [cell for by_value in swept.values() for cell in by_value.values()]
    found = _run(cells, arguments, checkpoint, arguments.out / "temperature", "skvqa_synth_quick")
    curves = {method: {value: found[cell.name] for value, cell in by.items()} for method, by in swept.items()}
    swept_file = folder / "accuracy_temperature.svg"  # the paper's figure 7
    embedded.draw_curves(swept_file, "temperature of the allocator", curves, found[FULL], 2.0, "{:g}")
    at = {name: runs[Variant(name, HEADLINE_RATIO, {}).name] for name in DRAWN}
    sparsity = embedded.sparsities(len({answer.video for answer in full.answers}), checkpoint)
    embedded.draw_sparsity(folder / "accuracy_sparsity.svg", {"all tokens": full, **at}, sparsity, BETAS)
