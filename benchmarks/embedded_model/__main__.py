"""Train the embedded model from scratch, as it was for a release: `python -m benchmarks.embedded_model --out DIR`."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.embedded_model.loop import no_denormals
from benchmarks.embedded_model.run import train
from lmms_kvtp.__main__ import Parser
from lmms_kvtp.commands.arguments import at_least_one, not_negative
from lmms_kvtp.commands.train import TRAIN_TINY
from lmms_kvtp.device import find_device


def main(argv: Sequence[str] | None = None) -> int:
    """Train it, and print its accuracies on held-out videos; bad input ends in one line."""
    parser = Parser(prog=TRAIN_TINY, description="Train the embedded LLaVA-Video and its SigLIP.")
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        with no_denormals():
            report = train(arguments.seed, arguments.out, find_device(arguments.device))
    except OSError as error:
        file = error.filename and f"{error.filename}: {error.strerror}; check this path, or give another"
        parser.exit(2, f"{parser.prog}: {file or error}\n")
    except (ValueError, LookupError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    sys.stdout.write(json.dumps(report["accuracy_on_val"], indent=1) + "\n")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may be chosen."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; a killed run goes on there")
    parser.add_argument("--seed", type=not_negative, default=0, help="of weights and draws (the shipped model: 0)")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--threads", type=at_least_one, help="CPU threads; the same number gives the same result")


if __name__ == "__main__":
    sys.exit(main())
