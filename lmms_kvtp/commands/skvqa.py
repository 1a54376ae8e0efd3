"""`lmms-kvtp skvqa`: build, check, compare and install indexes of SparseKV-QA."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lmms_kvtp.commands.arguments import add_numbers
from lmms_kvtp.rendering import first_few
from lmms_kvtp.skvqa import index
from lmms_kvtp.skvqa.entry import DATASETS, Entry
from lmms_kvtp.skvqa.stats import BETA, MIN_FRAMES, Criteria, apply_criteria, statistics_table
from lmms_kvtp.skvqa.task_index import install_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand for each thing that can be done with an index."""
    from lmms_kvtp.commands import skvqa_build

    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    one, several = "a file, or a folder with one file for each data set", "files, or folders of files"
    made = action("build", skvqa_build.build, "make the index of a data set from its annotations and videos")
    skvqa_build.add_build_arguments(made)
    imported = action("import", skvqa_build.import_release, "read the skvqa.json of the paper's authors")
    skvqa_build.add_import_arguments(imported)
    action("validate", _validate, "check every line").add_argument("index", type=Path, help=one)
    counted = action("stats", _stats, "table 1 of the paper, before and after the filter")
    counted.add_argument("index", type=Path, help=one)
    differ = action("diff", _diff, "where two indexes of one data set differ")
    differ.add_argument("a", type=Path, help="a file of an index")
    differ.add_argument("b", type=Path, help="another of the same data set")
    merger = action("merge", _merge, "several files of one data set as one")
    merger.add_argument("index", type=Path, nargs="+", help=several)
    merger.add_argument("--out", type=Path, required=True, help="the file to write")
    chooser = action("filter", _filter, "the paper's training set: training data that meet both criteria")
    chooser.add_argument("index", type=Path, nargs="+", help=several)
    chooser.add_argument("--out", type=Path, required=True, help="the file to write, for train predictor --index")
    for each in (counted, differ, chooser):  # what is valid does not depend on what the filter keeps
        add_numbers(each, [("--beta", BETA, "least sparsity"), ("--min-frames", MIN_FRAMES, "least frames")])
    installer = action("install", _install, "put an index where the tasks find it without being told")
    installer.add_argument("index", type=Path, help=one)


def main(arguments: argparse.Namespace) -> int:
    """Do what was asked for; 1 where an index is damaged or a build is incomplete."""
    return int(arguments.run(arguments))


def _criteria(arguments: argparse.Namespace) -> Criteria:
    return Criteria(arguments.beta, arguments.min_frames)


def _entries(places: Sequence[Path]) -> list[Entry]:
    return [entry for place in places for path in index.index_files(place) for entry in index.read_entries(path)]


def _validate(arguments: argparse.Namespace) -> int:
    bad = 0
    for path in index.index_files(arguments.index):
        good, wrong = index.sort_lines(path, path.stem if path.stem in DATASETS else None)
        try:
            index.on_scale(good, path)
        except ValueError as error:
            wrong.append(str(error))
        shown = "\n  " + first_few(wrong, index.SHOWN, "\n  ") if wrong else ""
        sys.stdout.write(f"{path}: {len(good)} good lines, {len(wrong)} bad{shown}\n")
        bad += len(wrong) + (not good)
    return 1 if bad else 0


def _stats(arguments: argparse.Namespace) -> int:
    sys.stdout.write(statistics_table(_entries([arguments.index]), _criteria(arguments)) + "\n")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    ours, theirs = index.read_entries(arguments.a), index.read_entries(arguments.b)
    found = index.compare_indexes(ours, theirs, _criteria(arguments))
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
    parts = [index.read_entries(path) for given in arguments.index for path in index.index_files(given)]
    count = index.write_entries(arguments.out, index.merge_indexes(parts))
    sys.stdout.write(f"{arguments.out}: {count} questions of {len(parts)} files\n")
    return 0


def _filter(arguments: argparse.Namespace) -> int:
    entries = _entries(arguments.index)
    training = [entry for entry in entries if entry.split == "training"]
    found = apply_criteria(training, _criteria(arguments))
    if not found.kept:
        raise ValueError(f"none of {len(entries)} questions is of a training data set and meets the criteria")
    count = index.write_entries(arguments.out, found.kept)
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
