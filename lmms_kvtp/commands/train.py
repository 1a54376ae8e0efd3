"""`lmms-kvtp train tiny`: train the embedded model from scratch."""

import argparse

from lmms_kvtp.training.tiny import command as tiny


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for each thing that can be trained."""
    targets = parser.add_subparsers(dest="target", required=True, metavar="WHAT")
    tiny.add_arguments(targets.add_parser("tiny", help="the embedded LLaVA-Video and its SigLIP"))


def main(arguments: argparse.Namespace) -> int:
    """Train what was named."""
    tiny.main(arguments)
    return 0
