"""What a question costs beside the language model, by an earlier commit and by this tree, in turns.

    python benchmarks/hot_path.py --before 855bcf6 --rounds 5 --write

Each round starts a new process for each side, with one thread. It loads the embedded model, encodes one video of the
embedded benchmark, and answers questions on it through `lmms_kvtp.api`. Told are the milliseconds of a question after
the first two: all of it, and what is left without the language model (scores, budgets, pruning, layout, text).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from pruning import tree_of

from lmms_kvtp.rendering import markdown, write_between

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "hot_path.json"
PAGE = ROOT / "docs" / "performance.md"
PRUNERS = ("random", "prumerge", "tome")
WARM = 2
SIDE = """
import json, sys, time
import torch
from lmms_kvtp.api import load
torch.set_num_threads(1)
told, model, out = json.load(sys.stdin), load("tiny"), {}
for pruner in told["pruners"]:
    answers = model.answers(told["video"], told["questions"], f"keep_ratio=0.2,pruner={pruner}")
    costs, walls, start = [], [], time.perf_counter()
    for answer in answers:
        now = time.perf_counter()
        costs.append(answer.cost.seconds)
        walls.append(now - start)
        start = now
    model_seconds = [cost["prefill"] + cost["generate"] for cost in costs]
    out[pruner] = [[1000 * wall, 1000 * (wall - seconds)] for wall, seconds in zip(walls, model_seconds)]
json.dump(out, sys.stdout)
"""


def main() -> None:
    """Measure, print, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit of this repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    told = json.dumps({"pruners": PRUNERS, **question_texts()})
    with tree_of(arguments.before) as folder:
        sides = {"before": folder, "now": ROOT}
        rounds = [{name: side(tree, told) for name, tree in sides.items()} for _ in range(arguments.rounds)]
    held = {"before": arguments.before, "load_average": os.getloadavg()[0], "rounds": rounds}
    text = table(held)
    sys.stdout.write(text + "\n")
    if arguments.write:
        RESULTS.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        write_between(PAGE, text, "hot path")


def question_texts() -> dict[str, Any]:
    """A video of the embedded benchmark, and more than a dozen questions on it."""
    from lmms_kvtp.embedded import cache
    from lmms_kvtp.embedded.questions import ask
    from lmms_kvtp.embedded.script import write_script

    asked = [question.prompt for question in ask(write_script(0, "test"))]
    return {"video": str(cache.video("test", 0)), "questions": (asked * 14)[: WARM + 12]}


def side(tree: Path, told: str) -> dict[str, list[list[float]]]:
    """Milliseconds of each question by one tree, for each pruner: all, and beside the language model."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SIDE],
        input=told,
        env=environment,
        cwd=tree,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, list[list[float]]] = json.loads(done.stdout)
    return {pruner: rows[WARM:] for pruner, rows in found.items()}


def table(held: dict[str, Any]) -> str:
    """For people: the median over rounds of each round's median question, and lowest to highest round."""
    lines = []
    for pruner in PRUNERS:
        line = [f"kvtp+{pruner}"]
        for part in (1, 0):
            by_side = [
                [statistics.median(row[part] for row in past[name][pruner]) for past in held["rounds"]]
                for name in ("before", "now")
            ]
            line += [f"{statistics.median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f})" for ms in by_side]
        lines.append(line)
    head = ["method", "beside the model, before", "now", "whole question, before", "now"]
    told = f"{len(held['rounds'])} rounds, load average {held['load_average']:.1f} at the end."
    return f"{markdown(head, lines)}\n\nMilliseconds. {told}"


if __name__ == "__main__":
    main()
