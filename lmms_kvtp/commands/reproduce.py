"""`lmms-kvtp reproduce`: the commands behind the paper's tables and figures, and finished runs beside its figures."""

import argparse
import sys

from lmms_kvtp.rendering import markdown
from lmms_kvtp.reproduce.plan import TARGETS, Places, Plan, beside, plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which table or figure, and where runs are."""
    default = Places()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--dry-run", action="store_true", help="only the commands and the paper's figures")
    parser.add_argument("--runs", default=default.out, help="folder that the commands write to (default %(default)s)")
    parser.add_argument("--predictor", default=default.predictor, help="of KVTP rows (default: none, and they say so)")
    parser.add_argument("--index", default=default.index, help="index of SparseKV-QA, for table 1")


def main(arguments: argparse.Namespace) -> int:
    """Print commands and figures; with finished runs, both side by side."""
    chosen = plan(arguments.target, Places(arguments.runs, arguments.predictor, arguments.index))
    sys.stdout.write(_shown(chosen))
    if arguments.dry_run or not any(step.folder for step in chosen.steps):
        return 0
    sys.stdout.write(f"\n{beside(chosen)}\n")
    return 0


def _shown(chosen: Plan) -> str:
    lines = [f"# {chosen.title}", *(f"# {note}" for note in chosen.notes), ""]
    for step in chosen.steps:
        lines += [f"# {step.name}" + (f": {step.note}" if step.note else ""), step.command]
    expected = [step for step in chosen.steps if step.expected]
    if expected:
        tasks = list(expected[0].expected)
        rows = [[step.name, *(f"{step.expected[task]:.2f}" for task in tasks)] for step in expected]
        lines += ["", markdown(["the paper reports", *tasks], rows)]
    return "\n".join(lines) + "\n"
