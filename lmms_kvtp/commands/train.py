"""`lmms-kvtp train`: the embedded model from scratch, or the relevance predictor."""

import argparse

from lmms_kvtp.commands import train_predictor as predictor
from lmms_kvtp.commands import train_tiny as tiny

TARGETS = {"tiny": tiny, "predictor": predictor}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for each thing that can be trained."""
    targets = parser.add_subparsers(dest="target", required=True, metavar="WHAT")
    tiny.add_arguments(targets.add_parser("tiny", help="the embedded LLaVA-Video and its SigLIP"))
    predictor.add_arguments(targets.add_parser("predictor", help="the query-frame relevance predictor of KVTP"))


def main(arguments: argparse.Namespace) -> int:
    """Train what was named."""
    TARGETS[arguments.target].main(arguments)
    return 0
