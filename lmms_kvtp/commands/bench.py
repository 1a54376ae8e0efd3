"""`lmms-kvtp bench e2e`: where the time of a run went."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs."""
    targets = parser.add_subparsers(dest="target", required=True, metavar="WHAT")
    whole = targets.add_parser("e2e", help="seconds of each stage of a finished run, with the ideal beside them")
    whole.add_argument("journal", type=Path, nargs="+", help="the run's journals, one for each rank, or their folder")


def main(arguments: argparse.Namespace) -> int:
    """Write the table.

    Raises:
        ValueError: no answers, or answers of a sweep, whose seconds are not of one method.
        OSError: a journal cannot be read.
    """
    from lmms_kvtp.bench import waterfall
    from lmms_kvtp.model_wrappers.journal import read

    costs = [answer.cost for path in arguments.journal for answer in read(path).answers.values()]
    if not costs:
        raise ValueError(f"{arguments.journal[0]} holds no answers; name the journal of a run that answered something")
    if any(cost.swept for cost in costs):
        raise ValueError(f"{arguments.journal[0]} is of a sweep, whose encoders run for all methods; time a run alone")
    sys.stdout.write(f"{len(costs)} answers\n\n{waterfall(costs)}\n")
    return 0
