"""`lmms-kvtp train predictor`: fine-tune a SigLIP for relevance, with the context fusion head."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.fusion import FusionHead
from lmms_kvtp.table import markdown
from lmms_kvtp.training.predictor.data_arguments import add_data_arguments, examples, held_out
from lmms_kvtp.training.predictor.features import FeatureCache
from lmms_kvtp.training.predictor.measure import MEASURES
from lmms_kvtp.training.predictor.model import Parts
from lmms_kvtp.training.predictor.objective import Objective
from lmms_kvtp.training.predictor.train import Recipe, train

RECIPE = ("parts", "epochs", "lr", "head_lr", "videos_per_step", "seed", "patience", "dtype", "report_to")
OBJECTIVE = ("level", "pooling", "flatness")
HEAD = ("clip_size", "local_weight", "global_weight", "queries")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, starting point, recipe and output folder."""
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; a killed run goes on there")
    parser.add_argument("--pretrained", default=Siglip().pretrained, help="SigLIP to start from (default %(default)s)")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the videos (default %(default)s)")
    choices = {
        "parts": get_args(Parts),
        "dtype": ("float32", "bfloat16"),
        "level": ("clip", "frame"),
        "pooling": ("softmax", "max"),
        "queries": ("normalized", "raw"),
    }
    for defaults, names in [(Recipe(), RECIPE), (Objective(), OBJECTIVE), (FusionHead(), HEAD)]:
        for name in names:
            value = getattr(defaults, name)
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                type=type(value),
                default=value,
                choices=choices.get(name),
                help="default %(default)s",
            )


def main(args: argparse.Namespace) -> None:
    """Train, and print the measures on the validation videos before and after."""
    head = FusionHead(**{name: getattr(args, name) for name in HEAD})
    objective = Objective(clip_size=args.clip_size, **{name: getattr(args, name) for name in OBJECTIVE})
    recipe = Recipe(head=head, objective=objective, **{name: getattr(args, name) for name in RECIPE})
    training, validation = held_out(examples(args, "train"), args.validation, args.seed)
    encoder = Siglip(args.pretrained)
    cache = FeatureCache(encoder, args.features or args.out / "features")
    report = train(encoder, cache.see(training)[0], cache.see(validation)[0], recipe, args.out)
    rows = [[when, *(f"{report[f'validation_{when}'][name]:.3f}" for name in MEASURES)] for when in ("before", "after")]
    sys.stdout.write(markdown(["validation", *MEASURES], rows) + "\n")
