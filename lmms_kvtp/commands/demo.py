"""`lmms-kvtp demo`: methods on the embedded model and benchmark, through the harness, in one table."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lmms_kvtp.leaderboard.runs import Run, read_runs
from lmms_kvtp.table import write_between

METHODS = {
    "all tokens": "scorer=uniform,allocator=uniform,pruner=none,keep_ratio=1",
    "random": "scorer=uniform,allocator=uniform,pruner=random",
    "hard key frames": "allocator=hard,pruner=random",
    "KVTP + random": "allocator=softmax,pruner=random",
    "KVTP + PruMerge": "allocator=softmax,pruner=prumerge",
}
"""Rows of the table and their settings."""

NOTE = """TOY: a 2-million-parameter model on synthetic videos. It shows how the methods work and fail;
it does not reproduce the paper's numbers. Accuracy in %, standard errors clustered by video."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to run and where to keep it."""
    parser.add_argument("--keep-ratio", type=float, default=0.2, help="share of vision tokens kept (default 0.2)")
    parser.add_argument("--full", action="store_true", help="the whole test split, not the quick subset")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--into", type=Path, help="also put the table into this file, between its demo markers")
    parser.add_argument("--out", type=Path, help="keep the harness's files here (default: a temporary folder)")


def main(arguments: argparse.Namespace) -> int:
    """Run the harness once for all methods, and write the table."""
    task = "skvqa_synth" if arguments.full else "skvqa_synth_quick"
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        runs = run_methods(METHODS, task, arguments.keep_ratio, out, arguments.limit)
        from lmms_kvtp.leaderboard.summary import problems, summary  # loads the harness: seconds, so not for --help

        table = summary(runs)
        sys.stdout.write(f"\n{table}\n\n{NOTE}\n" + "".join(f"! {line}\n" for line in problems(runs)))
    if arguments.into:
        write_between(arguments.into, table, "demo")
    return 0


def run_methods(methods: dict[str, str], task: str, keep_ratio: float, out: Path, limit: int | None) -> list[Run]:
    """Run `lmms-eval` in a process of its own, one configuration per method, and read what it wrote.

    Raises:
        FileNotFoundError: a method left no results; the harness's messages stand above.
    """
    configs = []
    for name, settings in methods.items():
        configs.append(
            {
                "model": "llava_video_kvtp",
                "model_args": f"pretrained=tiny,keep_ratio={keep_ratio},{settings}",
                "tasks": task,
                "output_path": str(_folder(out, name)),
                "log_samples": True,
                **({"limit": limit} if limit else {}),
            }
        )
    out.mkdir(parents=True, exist_ok=True)
    config = out / "methods.yaml"
    config.write_text(json.dumps(configs, indent=1))  # JSON is YAML
    subprocess.run([sys.executable, "-m", "lmms_eval", "--config", str(config), "--verbosity", "ERROR"], check=False)
    return [run for name in methods for run in read_runs(_folder(out, name), name)]


def _folder(out: Path, name: str) -> Path:
    return out / name.replace(" + ", "_").replace(" ", "_").lower()
