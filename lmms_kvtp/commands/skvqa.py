"""`lmms-kvtp skvqa`: build, check, compare and install indexes of SparseKV-QA."""

import argparse
import sys
from pathlib import Path

from lmms_kvtp.rendering import first_few
from lmms_kvtp.skvqa.entry import DATASETS, Entry
from lmms_kvtp.skvqa.index import (
    SHOWN,
    check_lines,
    compare_indexes,
    index_files,
    merge_indexes,
    on_scale,
    read_entries,
    write_entries,
)
from lmms_kvtp.skvqa.stats import BETA, MIN_FRAMES, Criteria, apply_criteria, statistics_table
from lmms_kvtp.skvqa.task_index import install_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand for each thing that can be done with an index."""
    from lmms_kvtp.commands import skvqa_build, skvqa_import

    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    skvqa_build.add_arguments(_action(actions, "build", "make the index of a data set from its annotations and videos"))
    skvqa_import.add_arguments(_action(actions, "import", "read the skvqa.json of the paper's authors"))
    for name, text in [
        ("validate", "check every line"),
        ("stats", "table 1 of the paper, before and after the filter"),
    ]:
        action = _action(actions, name, text)
        action.add_argument("index", type=Path, help="a file, or a folder with one file for each data set")
        if name == "stats":  # what is valid does not depend on what the filter keeps
            _add_criteria(action)
    differ = _action(actions, "diff", "where two indexes of one data set differ")
    differ.add_argument("a", type=Path, help="a file of an index")
    differ.add_argument("b", type=Path, help="another of the same data set")
    _add_criteria(differ)
    merger = _action(actions, "merge", "several files of one data set as one")
    merger.add_argument("index", type=Path, nargs="+", help="files, or folders of files")
    merger.add_argument("--out", type=Path, required=True, help="the file to write")
    chooser = _action(
        actions, "filter", "the paper's training set: questions of training data sets that meet both criteria"
    )
    chooser.add_argument("index", type=Path, nargs="+", help="files, or folders of files")
    chooser.add_argument("--out", type=Path, required=True, help="the file to write, for train predictor --index")
    _add_criteria(chooser)
    installer = _action(actions, "install", "put an index where the tasks find it without being told")
    installer.add_argument("index", type=Path, help="a file, or a folder with one file for each data set")


def main(arguments: argparse.Namespace) -> int:
    """Do what was asked for; 1 where an index is damaged or a build is incomplete."""
    from lmms_kvtp.commands import skvqa_build, skvqa_import

    actions = {
        "build": skvqa_build.main,
        "import": skvqa_import.main,
        "validate": _validate,
        "stats": _stats,
        "diff": _diff,
        "merge": _merge,
        "filter": _filter,
        "install": _install,
    }
    return actions[arguments.action](arguments)


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    return actions.add_parser(name, help=text, description=text)


def _add_criteria(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--beta", type=float, default=BETA, help="least sparsity (default %(default)s)")
    parser.add_argument("--min-frames", type=int, default=MIN_FRAMES, help="least frames (default %(default)s)")


def _validate(arguments: argparse.Namespace) -> int:
    bad = 0
    for path in index_files(arguments.index):
        expected = path.stem if path.stem in DATASETS else None
        good: list[Entry] = []
        wrong = []
        for found in check_lines(path, expected):
            if isinstance(found, Entry):
                good.append(found)
            else:
                wrong.append(found)
        try:
            on_scale(good, path)
        except ValueError as error:
            wrong.append(str(error))
        shown = "\n  " + first_few(wrong, SHOWN, "\n  ") if wrong else ""
        sys.stdout.write(f"{path}: {len(good)} good lines, {len(wrong)} bad{shown}\n")
        bad += len(wrong) + (not good)
    return 1 if bad else 0


def _stats(arguments: argparse.Namespace) -> int:
    entries = [entry for path in index_files(arguments.index) for entry in read_entries(path)]
    sys.stdout.write(statistics_table(entries, Criteria(arguments.beta, arguments.min_frames)) + "\n")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    found = compare_indexes(
        read_entries(arguments.a), read_entries(arguments.b), Criteria(arguments.beta, arguments.min_frames)
    )
    counts = {
        f"only in {arguments.a}": found.only_a,
        f"only in {arguments.b}": found.only_b,
        "in both with other scores, frames or refined question": found.changed,
        f"in both, kept only by {arguments.a}": found.kept_only_a,
        f"in both, kept only by {arguments.b}": found.kept_only_b,
    }
    for text, keys in counts.items():
        examples = f", such as {', '.join('/'.join(key) for key in keys[:3])}" if keys else ""
        sys.stdout.write(f"{len(keys)} {text}{examples}\n")
    sys.stdout.write(f"mean absolute change of a clip's score: {found.mean_score_change:.3f}\n")
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    parts = [read_entries(path) for given in arguments.index for path in index_files(given)]
    count = write_entries(arguments.out, merge_indexes(parts))
    sys.stdout.write(f"{arguments.out}: {count} questions of {len(parts)} files\n")
    return 0


def _filter(arguments: argparse.Namespace) -> int:
    entries = [entry for given in arguments.index for path in index_files(given) for entry in read_entries(path)]
    training = [entry for entry in entries if entry.split == "training"]
    found = apply_criteria(training, Criteria(arguments.beta, arguments.min_frames))
    if not found.kept:
        raise ValueError(f"none of {len(entries)} questions is of a training data set and meets the criteria")
    count = write_entries(arguments.out, found.kept)
    dropped = {
        "for evaluation": len(entries) - len(training),
        "not sparse": found.only_not_sparse,
        "too short": found.only_too_short,
        "neither sparse nor long": found.both,
    }
    told = ", ".join(f"{number} {why}" for why, number in dropped.items())
    sys.stdout.write(f"{arguments.out}: {count} of {len(entries)} questions kept; left out: {told}\n")
    return 0


def _install(arguments: argparse.Namespace) -> int:
    for path in install_index(arguments.index):
        sys.stdout.write(f"{path}\n")
    return 0
