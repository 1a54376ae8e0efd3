"""`lmms-kvtp sweep`: many methods and ratios in one pass over the videos, each cell in the harness's own format."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import lmms_kvtp.tasks
from lmms_kvtp.commands.arguments import at_least_one, ratios
from lmms_kvtp.files import write_json
from lmms_kvtp.leaderboard.runs import Run, read_runs
from lmms_kvtp.presets import DEPTH, FULL, PRESETS, RECIPES, settings_of

METHODS = (
    f"comma-separated: full, a published method ({', '.join(RECIPES)}, or a pruner's name), PRESET+pruner "
    f"({', '.join(PRESETS)}), or scorer/allocator+pruner"
)

LOG = "harness.log"
"""File with the harness's own messages and tables, where a progress bar takes their place."""


class SweepError(ValueError):
    """The pass over the videos broke off."""


@dataclass(frozen=True)
class Variant:
    """A method at a ratio."""

    method: str
    keep_ratio: float
    settings: Mapping[str, str]
    """`--model_args` of the harness."""

    @property
    def name(self) -> str:
        """Name of the row, such as `kvtp+random 20%`."""
        return self.method if self.method == FULL else f"{self.method} {100 * self.keep_ratio:g}%"

    @property
    def folder(self) -> str:
        """Folder of the results, below the sweep's."""
        return re.sub(r"[^\w.+-]+", "_", self.name.replace("%", ""))  # a comma would end a setting of the harness


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to run, on what, and where results go."""
    parser.add_argument("--methods", required=True, help=METHODS)
    parser.add_argument("--ratios", type=ratios, default="0.2", help="shares of vision tokens kept (default 0.2)")
    parser.add_argument("--tasks", default="skvqa_synth_quick", help="as of lmms-eval (default %(default)s)")
    parser.add_argument("--include_path", help="folder with tasks of your own, as of lmms-eval")
    parser.add_argument("--model_args", default="pretrained=tiny", help="for all cells (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="one folder per cell; a killed sweep goes on there")
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions of each task")
    parser.add_argument("--margin", type=float, help="points within which a board may call two rows equal")
    parser.add_argument(
        "--contrasts", default="", help="`A vs B,C vs full`: what a board compares, in place of all rows"
    )


def main(arguments: argparse.Namespace) -> int:
    """Sweep, and print the table of each task."""
    cells = plan(arguments.methods.split(","), arguments.ratios, arguments.model_args)
    cells = with_verdicts(cells, arguments.margin, arguments.contrasts)
    sys.stdout.write("".join(f"! {line}\n" for line in beforehand(cells, arguments.margin)))
    limits = {"limit": arguments.limit, "include_path": arguments.include_path}
    runs = sweep(cells, arguments.tasks, arguments.model_args, arguments.out, **limits)
    sys.stdout.write(tables(runs))
    return 0


def with_verdicts(cells: Sequence[Variant], margin: float | None, contrasts: str = "") -> list[Variant]:
    """Write into each cell's settings what a board will judge it by: its name, the margin, and what it is held against.

    Pairs are of one ratio, or with all tokens. LookupError names a contrast whose rows are not among the cells.
    """
    against: dict[str, list[str]] = {}
    for pair in filter(None, contrasts.split(",")):
        ours, _, theirs = (part.strip() for part in pair.partition(" vs "))
        both = [(a, b) for a in cells for b in cells if (a.method, b.method) == (ours, theirs)]
        found = [(a.name, b.name) for a, b in both if theirs == FULL or a.keep_ratio == b.keep_ratio]
        if not found:
            raise LookupError(f"contrast {pair.strip()!r}: both must be among --methods, as in 'kvtp+tome vs tome'")
        for this, that in found:
            against.setdefault(this, []).append(that)
    fixed = {} if margin is None else {"margin": f"{margin:g}"}
    if against:
        fixed["against"] = "none"
    own = [{"against": ";".join(against[cell.name])} if cell.name in against else {} for cell in cells]
    told = [{"row": cell.name, **fixed, **more} if fixed else {} for cell, more in zip(cells, own, strict=True)]
    return [replace(cell, settings={**cell.settings, **more}) for cell, more in zip(cells, told, strict=True)]


def beforehand(cells: Sequence[Variant], margin: float | None) -> list[str]:
    """What a board will say of these rows, before they run."""
    from lmms_kvtp.run.source import tree

    said = {
        "the code has changes that no commit holds: a board marks every row with that": tree().get("dirty"),
        f"{FULL} is not among the methods: a board holds no row against all tokens": all(
            c.method != FULL for c in cells
        ),
        "no --margin: a board calls no two rows equal": margin is None,
    }
    return [line for line, holds in said.items() if holds]


def tables(runs: Sequence[Run]) -> str:
    """Write the table of each task, and below it what its reader must know."""
    from lmms_kvtp.leaderboard.tables import problems, summary

    text = ""
    for task in sorted({run.task for run in runs}):
        of_task = [run for run in runs if run.task == task]
        notes = "".join(f"! {line}\n" for line in problems(of_task))
        text += f"\n{task}\n{summary(of_task)}\n{notes}"
    return text


def plan(methods: Sequence[str], ratios: Sequence[float], model_args: str = "") -> list[Variant]:
    """List all cells, each once; the unpruned model comes first.

    Recipes count the layers of the model that `model_args` name, or DEPTH layers where they are empty. LookupError for
    an unknown preset, ValueError for a ratio outside (0, 1], or more than a recipe can keep.
    """
    from lmms_kvtp.run.options import layers_of

    wrong = [ratio for ratio in ratios if not 0 < ratio <= 1]
    if wrong:
        raise ValueError(f"ratio {wrong[0]} is outside (0, 1]; it is the share of vision tokens kept")
    full = [Variant(FULL, 1.0, settings_of(FULL, 1.0))] if FULL in methods else []
    pruned = [name for name in dict.fromkeys(methods) if name != FULL]
    staged = any(name in RECIPES and RECIPES[name].layers for name in pruned)
    layers = layers_of(model_args) if model_args and staged else DEPTH
    found = [(name, ratio, settings_of(name, ratio, layers)) for name in pruned for ratio in dict.fromkeys(ratios)]
    return full + [Variant(*cell) for cell in found]


def sweep(
    cells: Sequence[Variant],
    tasks: str,
    common: str,
    out: Path,
    limit: int | None = None,
    answers: int | None = None,
    include_path: str | None = None,
) -> list[Run]:
    """Answer for all cells in one pass, then let the harness score each from its journal; all in one process.

    Args:
        cells: what to compare.
        tasks: comma-separated, as of lmms-eval.
        common: `--model_args` of all cells.
        out: one folder per cell. Answers that are there already are not made again.
        limit: of questions per task.
        answers: how many there will be, for a progress bar in place of the harness's messages, which then go to
            `out/harness.log`.
        include_path: folder with tasks of the user's own.

    Raises:
        LookupError: no such task, component or argument.
        ValueError: a value that does not fit, or no checkpoint.
        SweepError: the pass over the videos broke off; what was answered stays, and the same command goes on there.
        FileNotFoundError: a cell left no results; the harness's messages stand above.
    """
    from lmms_kvtp.run.options import model_id
    from lmms_kvtp.settings import pairs

    check(cells, tasks, common, include_path)
    model = model_id(pairs(common)) or "llava_video_kvtp"
    out.mkdir(parents=True, exist_ok=True)
    making, reading = [], []
    limits = {name: value for name, value in (("limit", limit), ("include_path", include_path)) if value}
    for cell in cells:
        given = _given(common, cell)
        journal = out / cell.folder / "journal"
        resumed = f",resume={journal}" if any(journal.glob("*.jsonl")) else ""
        making.append(f"{given},journal={journal}{resumed}")
        step = {"model": model, "model_args": f"{given},journal=none,resume={journal}"}
        reading.append({**step, "tasks": tasks, "output_path": str(out / cell.folder), "log_samples": True, **limits})
    _keep_verdicts(out / "cells.json", making)
    write_json(out / "cells.json", making)
    together = "kvtp_sweep" if model == "llava_video_kvtp" else f"{model}_sweep"
    first = {"model": together, "model_args": f"cells={out / 'cells.json'}", "tasks": tasks, **limits}
    before = _count_answers(out)
    bar = tqdm(total=answers, unit="answer", disable=answers is None)
    _harness(out / "sweep.yaml", [first], bar)
    if _count_answers(out) == before:
        where = "stand above" if bar.disable else f"stand in {out / LOG}"
        raise SweepError(f"the pass over the videos made no answers in {out}; the harness's messages {where}")
    _harness(out / "cells.yaml", reading, bar)
    bar.close()
    return [run for cell in cells for run in read_runs(out / cell.folder, cell.name)]


def _keep_verdicts(file: Path, making: Sequence[str]) -> None:
    """Refuse another margin or other contrasts than a sweep began with: its answers may have been looked at."""
    from lmms_kvtp.settings import pairs

    begun = [pairs(text) for text in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []
    for now in map(pairs, making):
        for before in [cell for cell in begun if cell["journal"] == now["journal"]]:
            if [before.get(name) for name in ("margin", "against")] != [
                now.get(name) for name in ("margin", "against")
            ]:
                told = f"margin={before.get('margin', 'none')}, against={before.get('against', 'all tokens')}"
                raise ValueError(f"{now['journal']} was begun with {told}; go on with these, or choose another --out")


def check(cells: Sequence[Variant], tasks: str, common: str, include_path: str | None = None) -> None:
    """Refuse what the harness would refuse with many lines, half a minute later; raises as `sweep` does."""
    from lmms_kvtp.run.options import check_arguments

    check_arguments([_given(common, cell) for cell in cells])
    own = {file.stem for file in Path(lmms_kvtp.tasks.__path__[0]).rglob("*.yaml")}
    if not set(tasks.split(",")) <= own:  # the harness reads 1,900 files to know its own
        from lmms_kvtp.harness.preflight import check_tasks

        check_tasks(tasks, include_path)


def _given(common: str, cell: Variant) -> str:
    return ",".join([common, *(f"{name}={value}" for name, value in cell.settings.items())])


def _count_answers(out: Path) -> int:
    """Count the lines of all journals but their first ones; answers that were taken over are among them."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) - 1 for file in out.glob("*/journal/*.jsonl"))


def _harness(file: Path, steps: Sequence[Mapping[str, object]], bar: "tqdm[Any]") -> None:
    """Run the harness; where the bar is shown, its messages go to a file, and the bar counts the journals' lines."""
    write_json(file, steps)  # JSON is YAML
    command = [sys.executable, "-m", "lmms_eval", "--config", str(file), "--verbosity", "ERROR"]
    if bar.disable:
        subprocess.run(command, check=False)
        return
    with (file.parent / LOG).open("a") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
            bar.update(_count_answers(file.parent) - bar.n)
