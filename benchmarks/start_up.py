"""What the plug-in adds to the start of a model id of the harness's own: a start with it against one without, in turns.

    python benchmarks/start_up.py --rounds 5 --output benchmarks/results/start_up.json
    python benchmarks/start_up.py --commands

A start is a process that imports the harness, lists its tasks, and makes the stock model `dummy`, which has no weights.
The same process leaves out the plug-in's entry point where it is to be without. Seconds are those on the clock, and
those that the process had a CPU, children included; one pair that does not count comes first. Medians, and lowest to
highest. With --commands, `lmms-kvtp` commands that need no model, beside torch's import, in turns as well.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lmms_kvtp.commands.arguments import at_least_one
from lmms_kvtp.rendering import markdown

START = """
import importlib.metadata, sys
from importlib.metadata import EntryPoints

if sys.argv[1] == "without":
    everything = importlib.metadata.entry_points()
    others = EntryPoints(entry for group in everything.groups for entry in everything.select(group=group)
                         if entry.name != "lmms_kvtp")
    importlib.metadata.entry_points = lambda **only: others.select(**only)

from lmms_eval import evaluator
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager

TaskManager(model_name="dummy")
get_model("dummy")()
assert ("lmms_kvtp.harness.plugin" in sys.modules) == (sys.argv[1] == "with")
"""
KINDS = ("without", "with")
LISTING = (["list"], ["list", "pruner", "tome"], ["sweep", "--help"], ["flops", "--help"])
COUNTED = {
    "llava-video-7b": "kvtp+prumerge",
    "Qwen/Qwen2.5-VL-7B-Instruct": "vidcom2",
    "Qwen/Qwen3-VL-8B-Instruct": "vidcom2",
    "OpenGVLab/InternVL3-8B-hf": "vidcom2",
}
"""Models that `lmms-kvtp flops` counts, and with which method."""
LEAST = 2.0
"""Seconds that may be added."""


def start(*words: str) -> dict[str, float]:
    """Start Python once with these words."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-P", *words], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": spent}


def spread(values: list[float]) -> str:
    """`2.1 (1.9 to 2.3)`."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def commands(rounds: int) -> str:
    """A table of commands that need no model; a first round does not count."""
    counted = [["flops", "--model", model, "--method", method] for model, method in COUNTED.items()]
    started = {f"lmms-kvtp {' '.join(words)}": ["-m", "lmms_kvtp", *words] for words in (*LISTING, *counted, ["flops"])}
    started = {'python -c "import torch"': ["-c", "import torch"], **started}
    found = [{name: start(*words) for name, words in started.items()} for _ in range(1 + rounds)][1:]
    columns = [[[once[name][clock] for once in found] for clock in ("seconds", "cpu_seconds")] for name in started]
    rows = [[name, *map(spread, column)] for name, column in zip(started, columns, strict=True)]
    return markdown(["command", "seconds", "CPU seconds"], rows)


def main() -> None:
    """Measure, print, and write a file if asked to; exit code 1 where more is added than may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--commands", action="store_true")
    arguments = parser.parse_args()
    if arguments.commands:
        sys.stdout.write(f"{commands(arguments.rounds)}\n")
        return
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(1 + arguments.rounds):
        for kind in KINDS[:: -1 if number % 2 else 1]:
            once = start("-c", START, kind)
            found[kind] += [once] if number else []
    clocks = ("seconds", "cpu_seconds")
    columns = {kind: {clock: [once[clock] for once in found[kind]] for clock in clocks} for kind in KINDS}
    added = {
        clock: [one - other for one, other in zip(columns["with"][clock], columns["without"][clock], strict=True)]
        for clock in clocks
    }
    rows = [
        [kind, *(spread(column[clock]) for clock in clocks)] for kind, column in (columns | {"added": added}).items()
    ]
    load = os.getloadavg()[0]
    sys.stdout.write(f"{markdown(['start', 'seconds', 'CPU seconds'], rows)}\n\n")
    sys.stdout.write(f"{arguments.rounds} rounds, load average {load:.1f} at the end.\n")
    if arguments.output:
        held: dict[str, Any] = {"rounds": arguments.rounds, "load_average": load, "added": added, **columns}
        arguments.output.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(int(statistics.median(added["cpu_seconds"]) > LEAST))


if __name__ == "__main__":
    main()
