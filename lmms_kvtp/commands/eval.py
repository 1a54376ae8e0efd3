"""`lmms-kvtp eval predictor`: how well scorers find key frames, without any language model."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, on which videos."""
    from lmms_kvtp.encoders.siglip import Siglip
    from lmms_kvtp.training.predictor.data_arguments import add_data_arguments

    targets = parser.add_subparsers(dest="target", required=True, metavar="WHAT")
    predictor = targets.add_parser("predictor", help="recall of key frames and the like, of several scorers")
    add_data_arguments(predictor)
    predictor.add_argument("checkpoint", nargs="*", help="trained predictors, folders or hub ids")
    predictor.add_argument("--pretrained", default=Siglip().pretrained, help="untuned SigLIP (default %(default)s)")
    predictor.add_argument("--split", default="val", choices=["train", "val", "test"], help="of synthetic videos")
    predictor.add_argument("--temperature", type=float, nargs="+", default=[2.0], help="one table each")


def main(arguments: argparse.Namespace) -> int:
    """Write one Markdown table for each temperature; differences are to the untuned model."""
    from lmms_kvtp.encoders.siglip import Siglip
    from lmms_kvtp.scorers.kvtp import KVTP
    from lmms_kvtp.scorers.oracle import Oracle
    from lmms_kvtp.scorers.similarity import Similarity
    from lmms_kvtp.scorers.uniform import Uniform
    from lmms_kvtp.table import markdown
    from lmms_kvtp.training.predictor.compare import Candidate, compare, table
    from lmms_kvtp.training.predictor.data_arguments import examples
    from lmms_kvtp.training.predictor.measure import MEASURES

    untuned = Siglip(arguments.pretrained)
    candidates = {"uniform": Candidate(untuned, Uniform()), "untuned": Candidate(untuned, Similarity())}
    for checkpoint in arguments.checkpoint:
        encoder = Siglip(checkpoint)
        candidates[checkpoint] = Candidate(encoder, KVTP())
        candidates[f"{checkpoint}, no fusion"] = Candidate(encoder, KVTP(fusion=False))
    candidates["oracle"] = Candidate(untuned, Oracle())
    found, folder = examples(arguments, arguments.split), arguments.features or Path("features")
    for temperature in arguments.temperature:
        rows = table(compare(candidates, found, folder, temperature), "untuned")
        header = [f"temperature {temperature:g}", *MEASURES, "recall against untuned"]
        sys.stdout.write(f"\n{markdown(header, rows)}\n")
    return 0
