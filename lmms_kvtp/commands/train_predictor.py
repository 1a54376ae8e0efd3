"""`lmms-kvtp train predictor`: fine-tune for relevance, with the context fusion head."""

import argparse
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from accelerate import PartialState
from transformers import set_seed

from lmms_kvtp.commands.predictor_data import add_data_arguments, examples, held_out, untuned
from lmms_kvtp.predictor.features import FeatureCache
from lmms_kvtp.predictor.measure import MEASURES
from lmms_kvtp.predictor.model import Objective
from lmms_kvtp.predictor.recipe import Recipe
from lmms_kvtp.predictor.towers import SharedTowers, SiglipTowers, Towers
from lmms_kvtp.predictor.train import train
from lmms_kvtp.rendering import markdown
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.settings import meanings
from lmms_kvtp.vlms.llava_video import load_llava_video

FIELDS: dict[type[Any], tuple[str, ...]] = {
    Recipe: (
        *("parts", "epochs", "lr", "head_lr", "videos_per_step", "seed", "patience", "dtype"),
        *("lora_rank", "gradient_checkpointing", "report_to"),
    ),
    Objective: ("level", "pooling", "flatness"),
    FusionHead: ("clip_size", "local_weight", "global_weight", "queries", "anchors"),
}
"""Settings that are arguments, by the class that has them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, starting point, recipe and output folder."""
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; a killed run goes on there")
    parser.add_argument("--slim", type=Path, help="also write there, in float16, only what training changed")
    parser.add_argument("--shared", metavar="MODEL", help="learn a light head on the tower of this LLaVA-Video instead")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the videos (default %(default)s)")
    for cls, names in FIELDS.items():
        hints, defaults, told = get_type_hints(cls), cls(), meanings(cls)
        for name in names:
            flag, value, meaning = f"--{name.replace('_', '-')}", getattr(defaults, name), told[name].replace("%", "%%")
            if isinstance(value, bool):
                parser.add_argument(flag, action="store_true", help=meaning)
            else:
                choices, text = get_args(hints[name]) or None, f"{meaning} (default %(default)s)"
                parser.add_argument(flag, type=type(value), default=value, choices=choices, help=text)


def main(args: argparse.Namespace) -> None:
    """Train, and print the measures on the validation videos before and after.

    Raises:
        ValueError: an argument does not fit, or training broke off because a loss was not finite.
    """
    if args.slim is not None and args.parts == "all":
        raise ValueError("--slim with --parts all: a trained vision tower has no slim form; leave it out and use --out")
    process = PartialState(cpu=not torch.cuda.is_available())  # of several, each takes a GPU of its own, or gloo
    values = {cls: {name: getattr(args, name) for name in names} for cls, names in FIELDS.items()}
    head, objective = FusionHead(**values[FusionHead]), Objective(clip_size=args.clip_size, **values[Objective])
    recipe = Recipe(head=head, objective=objective, **values[Recipe])
    features = args.features or args.out / "features"
    training, validation = held_out(examples(args, "train", features), args.validation, args.seed)
    set_seed(args.seed)  # a shared tower's head may start at random
    towers = _towers(args)
    cache = FeatureCache(towers.viewer, features)
    (learned, unusable), (checked, unchecked) = cache.see(training), cache.see(validation)
    try:
        report = train(towers, learned, checked, recipe, args.out, [*unusable, *unchecked], args.slim)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    if not process.is_main_process:
        return
    rows = [[when, *(f"{report[f'validation_{when}'][name]:.3f}" for name in MEASURES)] for when in ("before", "after")]
    left_out = report["data"]["videos_left_out"]
    sys.stdout.write(markdown(["validation", *MEASURES], rows) + "\n")
    sys.stdout.write(f"{left_out} videos and {report['data']['flat_questions_left_out']} questions were left out\n")


def _towers(args: argparse.Namespace) -> Towers:
    encoder = untuned(args)
    if args.shared is None:
        return SiglipTowers(encoder, args.parts)
    return SharedTowers(load_llava_video(args.shared), encoder, args.parts)
