"""`lmms-kvtp demo`: methods on the embedded model and benchmark, through the harness, in one table."""

import argparse
import sys
from pathlib import Path

from lmms_kvtp.commands.arguments import at_least_one
from lmms_kvtp.commands.cells import plan
from lmms_kvtp.commands.sweep import sweep
from lmms_kvtp.files import home
from lmms_kvtp.rendering import write_between

METHODS = ("full", "random", "prumerge", "hard+grid", "kvtp+prumerge", "shared+prumerge")

NOTE = """TOY: a model of 3.3 million parameters on synthetic videos. It shows how the methods work and fail;
it does not reproduce the paper's numbers. Accuracy in %, standard errors clustered by video. kvtp has a trained
predictor beside the model's tower, shared one on it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to run and where to keep it."""
    parser.add_argument("--keep-ratio", type=float, default=0.2, help="share of vision tokens kept (default 0.2)")
    parser.add_argument("--full", action="store_true", help="the whole test split, not the quick subset")
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions")
    parser.add_argument("--into", type=Path, help="also put the table into this file, between its demo markers")
    parser.add_argument("--out", type=Path, help="the harness's files, to go on from (default: in the cache folder)")


def main(arguments: argparse.Namespace) -> int:
    """Sweep over the methods, and write the table."""
    from lmms_kvtp.leaderboard.tables import problems, summary

    task, cells = "skvqa_synth" if arguments.full else "skvqa_synth_quick", plan(METHODS, [arguments.keep_ratio])
    runs = sweep(cells, task, "pretrained=tiny", arguments.out or home() / "demo" / task, arguments.limit)
    table = summary(runs)
    sys.stdout.write("\n".join(["", table, "", NOTE, *(f"! {line}" for line in problems(runs)), ""]))
    if arguments.into:
        write_between(arguments.into, table, "demo")
    return 0
