"""`lmms-kvtp train`: the relevance predictor."""

import argparse
import sys
from pathlib import Path
from typing import Any

from lmms_kvtp.commands.arguments import add_fields
from lmms_kvtp.commands.predictor_data import add_data_arguments, examples, held_out, untuned

FIELDS: dict[str, tuple[str, ...]] = {
    "predictor/recipe.py:Recipe": (
        *("parts", "epochs", "lr", "head_lr", "videos_per_step", "seed", "patience", "dtype"),
        *("lora_rank", "gradient_checkpointing", "report_to"),
    ),
    "predictor/model.py:Objective": ("level", "pooling", "flatness"),
    "scorers/parts/fusion.py:FusionHead": ("clip_size", "local_weight", "global_weight", "queries", "anchors"),
}
"""Settings of `train predictor` that are arguments, by the class that has them."""
TRAIN_TINY = "python -m benchmarks.embedded_model"
"""The command that trains the embedded model; it is no part of what is installed."""


class PaperRecipe(argparse.Action):
    """Sets all that the paper's training has; flags behind it change it again."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        """Set the flags."""
        from lmms_kvtp.predictor.recipe import PAPER

        setattr(namespace, self.dest, values)
        for name, value in PAPER.items():
            setattr(namespace, name, value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand for each thing that can be trained."""
    targets = parser.add_subparsers(dest="target", required=True, metavar="WHAT")
    _add_predictor_arguments(targets.add_parser("predictor", help="the query-frame relevance predictor of KVTP"))
    moved = targets.add_parser("tiny", prefix_chars="+", add_help=False)  # no help, so not listed; no flags of its own
    moved.add_argument("ignored", nargs="*")


def main(arguments: argparse.Namespace) -> int:
    """Train what was named; ValueError where an argument does not fit, or a loss was not finite."""
    if arguments.target == "tiny":
        raise ValueError(f"tiny is trained in a checkout only, with the same arguments: {TRAIN_TINY}")
    _train_predictor(arguments)
    return 0


def _add_predictor_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; a killed run goes on there")
    parser.add_argument("--slim", type=Path, help="also write there, in float16, only what training changed")
    parser.add_argument("--shared", metavar="MODEL", help="learn a light head on the tower of this model instead")
    lines = "train on evaluation lines of an index as well, and on lines that miss the paper's criteria"
    parser.add_argument("--any-lines", action="store_true", default=False, help=lines)
    recipe = "the paper's training, eq. 4 to 11 as printed, in one word; flags behind it change it"
    parser.add_argument("--recipe", choices=["paper"], action=PaperRecipe, help=recipe)
    parser.add_argument("--validation", type=float, default=0.1, help="share of the videos (default %(default)s)")
    for cls, names in FIELDS.items():
        add_fields(parser, cls, names)


def _train_predictor(arguments: argparse.Namespace) -> None:
    """Train a predictor, and print its measures on the validation videos before and after."""
    if arguments.slim is not None and arguments.parts == "all":
        raise ValueError("--slim with --parts all: a trained vision tower has no slim form; leave it out and use --out")
    import torch
    from accelerate import PartialState
    from transformers import set_seed

    from lmms_kvtp.predictor.features import FeatureCache
    from lmms_kvtp.predictor.measure import MEASURES
    from lmms_kvtp.predictor.model import Objective
    from lmms_kvtp.predictor.recipe import Recipe
    from lmms_kvtp.predictor.towers import SharedTowers, SiglipTowers
    from lmms_kvtp.predictor.train import train_predictor
    from lmms_kvtp.rendering import markdown
    from lmms_kvtp.scorers.parts.fusion import FusionHead
    from lmms_kvtp.vlms.base import load_vlm

    process = PartialState(cpu=not torch.cuda.is_available())  # of several, each takes a GPU of its own, or gloo
    of_recipe, of_loss, of_head = ({name: getattr(arguments, name) for name in names} for names in FIELDS.values())
    head, objective = FusionHead(**of_head), Objective(clip_size=arguments.clip_size, **of_loss)
    recipe = Recipe(head=head, objective=objective, **of_recipe)
    features = arguments.features or arguments.out / "features"
    found = examples(arguments, "train", features)
    training, validation = held_out(found, arguments.validation, arguments.seed)
    set_seed(arguments.seed)  # a shared tower's head may start at random
    encoder, parts, model = untuned(arguments), arguments.parts, arguments.shared
    towers = SharedTowers(load_vlm(model), encoder, parts) if model else SiglipTowers(encoder, parts)
    cache = FeatureCache(towers.viewer, features)
    (learned, unusable), (checked, unchecked) = cache.encode(training), cache.encode(validation)
    try:
        left_out = [*unusable, *unchecked]
        report = train_predictor(towers, learned, checked, recipe, arguments.out, left_out, arguments.slim)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error
    if not process.is_main_process:
        return
    rows = [[when, *(f"{report[f'validation_{when}'][name]:.3f}" for name in MEASURES)] for when in ("before", "after")]
    counts = report["data"]
    sys.stdout.write(markdown(["validation", *MEASURES], rows) + "\n")
    videos, questions = counts["videos_left_out"], counts["flat_questions_left_out"]
    sys.stdout.write(f"{videos} videos and {questions} questions were left out\n")
