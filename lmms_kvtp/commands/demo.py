"""`lmms-kvtp demo`: methods on the embedded model and benchmark, through the harness, in one table."""

import argparse
import sys
import tempfile
from pathlib import Path

from lmms_kvtp.commands.arguments import at_least_one
from lmms_kvtp.commands.sweep import plan, sweep
from lmms_kvtp.rendering import write_between

METHODS = ("full", "random", "hard+random", "kvtp+random", "kvtp+prumerge")

NOTE = """TOY: a model of 3.3 million parameters on synthetic videos. It shows how the methods work and fail;
it does not reproduce the paper's numbers. Accuracy in %, standard errors clustered by video."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to run and where to keep it."""
    parser.add_argument("--keep-ratio", type=float, default=0.2, help="share of vision tokens kept (default 0.2)")
    parser.add_argument("--full", action="store_true", help="the whole test split, not the quick subset")
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions")
    parser.add_argument("--into", type=Path, help="also put the table into this file, between its demo markers")
    parser.add_argument("--out", type=Path, help="keep the harness's files here (default: a temporary folder)")


def main(arguments: argparse.Namespace) -> int:
    """Sweep over the methods, and write the table."""
    task = "skvqa_synth" if arguments.full else "skvqa_synth_quick"
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        runs = sweep(plan(METHODS, [arguments.keep_ratio]), task, "pretrained=tiny", out, arguments.limit)
        from lmms_kvtp.leaderboard.tables import problems, summary

        table = summary(runs)
        sys.stdout.write(f"\n{table}\n\n{NOTE}\n" + "".join(f"! {line}\n" for line in problems(runs)))
    if arguments.into:
        write_between(arguments.into, table, "demo")
    return 0
