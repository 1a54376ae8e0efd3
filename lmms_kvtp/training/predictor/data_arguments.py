"""The command-line arguments that say which videos and questions, shared by training and evaluation."""

import argparse
from pathlib import Path

import numpy as np

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.refine import Remembered, refine
from lmms_kvtp.sampling import FrameOptions
from lmms_kvtp.shipped import shipped_folder
from lmms_kvtp.training.predictor.examples import Example, read_index, synthetic


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """An index with its videos, or videos of the embedded benchmark."""
    parser.add_argument("--index", type=Path, help="JSON lines, such as an index of SparseKV-QA (docs/predictor.md)")
    parser.add_argument("--videos", type=Path, default=Path(), help="folder of the index's videos (default: here)")
    parser.add_argument("--synthetic", type=int, help="so many videos of the embedded benchmark instead of an index")
    parser.add_argument(
        "--pretrained",
        default=Siglip().pretrained,
        help="the untuned SigLIP: folder, hub id, or tiny for the embedded model's (default %(default)s)",
    )
    parser.add_argument("--refined", type=Path, help="index whose refined questions are used for these questions, too")
    parser.add_argument("--features", type=Path, help="folder of cached image features")
    parser.add_argument("--max-frames-num", type=int, default=FrameOptions().max_frames_num)
    parser.add_argument("--fps", type=float, default=FrameOptions().fps)


def untuned(args: argparse.Namespace) -> Siglip:
    """What training starts from, and what predictors are compared with."""
    return Siglip(str(shipped_folder("tiny") / "siglip") if args.pretrained == "tiny" else args.pretrained)


def examples(args: argparse.Namespace, split: str) -> list[Example]:
    """All videos that the arguments name; `split` is that of synthetic ones.

    Raises:
        ValueError: neither or both of --index and --synthetic are given, or the index is damaged.
    """
    frames = FrameOptions(max_frames_num=args.max_frames_num, fps=args.fps)
    if (args.index is None) == (args.synthetic is None):
        raise ValueError("give either --index FILE, or --synthetic NUMBER for videos of the embedded benchmark")
    refiner = refine if args.refined is None else Remembered.load(args.refined)
    if args.index is not None:
        return read_index(args.index, args.videos, frames, refiner)
    return synthetic(split, range(args.synthetic), frames, refiner)


def held_out(found: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split by video into the larger part and `share` of the videos, at least one.

    Raises:
        ValueError: there are fewer than two videos.
    """
    if len(found) < 2:
        raise ValueError(f"{len(found)} videos cannot be split into training and validation; give at least 2")
    order = np.random.default_rng(seed).permutation(len(found))
    count = max(1, round(share * len(found)))
    return [found[i] for i in sorted(order[count:])], [found[i] for i in sorted(order[:count])]
