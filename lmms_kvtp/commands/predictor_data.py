"""The arguments that say which videos and questions to use, shared by training and evaluation of predictors."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_kvtp.commands.arguments import add_fields, at_least_one
from lmms_kvtp.commands.endpoints import add_endpoint_arguments, choose_refiner
from lmms_kvtp.questions import RULE, Refiner, Remembered, refine
from lmms_kvtp.skvqa.stats import Criteria
from lmms_kvtp.skvqa_build.store import Store

if TYPE_CHECKING:
    from lmms_kvtp.encoders.siglip import Siglip
    from lmms_kvtp.predictor.examples import Example

SIGLIP = "google/siglip-so400m-patch14-384"
"""Default of the encoder `siglip`."""


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an index with its videos, or videos of the embedded benchmark."""
    parser.add_argument("--index", type=Path, help="JSON lines, such as an index of SparseKV-QA (docs/predictor.md)")
    parser.add_argument("--videos", type=Path, default=Path(), help="folder of the index's videos (default: here)")
    parser.add_argument("--synthetic", type=at_least_one, help="instead: so many videos of the embedded benchmark")
    parser.add_argument("--pretrained", default=SIGLIP, help="untuned SigLIP: folder, id or tiny (default %(default)s)")
    parser.add_argument("--refined", type=Path, help="index whose refined questions are used for these questions, too")
    parser.add_argument("--features", type=Path, help="cached features, refinements (default: in --out, or here)")
    add_fields(parser, "video/sampling.py:FrameOptions", ("max_frames_num", "fps"))
    add_endpoint_arguments(parser)
    parser.set_defaults(any_lines=True)  # of an index; training has a flag for it


def untuned(args: argparse.Namespace) -> "Siglip":
    """Load the SigLIP that training starts from, and predictors are compared with.

    It is in float32 for both, so that one feature cache serves both; mixed precision keeps its weights so, too.
    """
    from lmms_kvtp.encoders.siglip import Siglip

    return Siglip(args.pretrained, dtype="float32")


def examples(args: argparse.Namespace, split: str, folder: Path) -> "list[Example]":
    """Read all videos that the arguments name, with questions as scorers read them.

    `split` is that of synthetic videos, and `folder` keeps a model's refinements. ValueError where not one of --index
    and --synthetic is given, the index is damaged, or the refiner cannot be used.
    """
    if (args.index is None) == (args.synthetic is None):
        raise ValueError("give either --index FILE, or --synthetic NUMBER for videos of the embedded benchmark")
    from lmms_kvtp.skvqa_build.ask import remember
    from lmms_kvtp.skvqa_build.chat import BudgetError, ChatError

    if args.refiner == RULE:
        return _read(args, split, refine)
    unknown: list[tuple[str, tuple[str, ...]]] = []

    def note(stem: str, options: Sequence[str] = ()) -> str:
        unknown.append((stem, tuple(options)))
        return stem

    store = Store(folder / "refinements.sqlite")
    chat = choose_refiner(args, store)
    _read(args, split, note)
    try:
        return _read(args, split, remember(chat, store, unknown))
    except (ChatError, BudgetError) as error:
        raise ValueError(str(error)) from error


def _read(args: argparse.Namespace, split: str, refiner: Refiner) -> "list[Example]":
    """Read the examples; `refiner` refines the questions that --refined does not have."""
    from lmms_kvtp.predictor.examples import read_examples, synthetic
    from lmms_kvtp.video.sampling import FrameOptions

    frames = FrameOptions(max_frames_num=args.max_frames_num, fps=args.fps)
    known = refiner if args.refined is None else Remembered.load(args.refined, refiner)
    if args.index is not None:
        check = None if args.any_lines else Criteria().check_training
        return read_examples(args.index, args.videos, frames, known, check)
    return synthetic(split, range(args.synthetic), frames, known)


def held_out(found: "list[Example]", share: float, seed: int) -> "tuple[list[Example], list[Example]]":
    """Split by video into the larger part and `share` of the videos, at least one.

    ValueError where there are fewer than two videos, or `share` is not one.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation={share} is outside (0, 1); it is the share of the videos, such as 0.1")
    if len(found) < 2:
        raise ValueError(f"{len(found)} videos cannot be split into training and validation; give at least 2")
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(found))
    count = min(max(1, round(share * len(found))), len(found) - 1)
    return [found[i] for i in sorted(order[count:])], [found[i] for i in sorted(order[:count])]
