"""`lmms-kvtp train tiny`: train the embedded model from scratch."""

import argparse
import json
import sys
from pathlib import Path

import torch

from lmms_kvtp.device import find_device
from lmms_kvtp.settings import at_least_one, not_negative
from lmms_kvtp.tiny.loop import no_denormals
from lmms_kvtp.tiny.run import train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Seed, output folder, device and threads."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; a killed run goes on there")
    parser.add_argument("--seed", type=not_negative, default=0, help="of weights and draws (the shipped model: 0)")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--threads", type=at_least_one, help="CPU threads; the same number gives the same result")


def main(args: argparse.Namespace) -> None:
    """Train, and print the accuracies on held-out videos."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with no_denormals():
        report = train(args.seed, args.out, find_device(args.device))
    sys.stdout.write(json.dumps(report["accuracy_on_val"], indent=1) + "\n")
