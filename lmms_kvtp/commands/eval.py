"""`lmms-kvtp eval predictor`: how well scorers find key frames, without any language model."""

import argparse
import json
import sys
from pathlib import Path

from lmms_kvtp.files import write_whole

ABLATIONS = {
    "temperature": "the allocation's temperature, 0.5 to 16 (figure 7 of the paper)",
    "fusion": "weights of clip and video in the fusion head",
    "clip_size": "frames of a clip",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is measured, on which videos."""
    from lmms_kvtp.commands.predictor_data import add_data_arguments

    targets = parser.add_subparsers(dest="target", required=True, metavar="WHAT")
    predictor = targets.add_parser("predictor", help="recall of key frames and the like, of several scorers")
    add_data_arguments(predictor)
    predictor.add_argument("checkpoint", nargs="*", help="trained predictors: folders, hub ids, tiny or tiny_shared")
    predictor.add_argument("--shared", metavar="MODEL", help="whose tower shared predictors read")
    predictor.add_argument("--split", default="val", choices=["train", "val", "test"], help="synthetic (default val)")
    predictor.add_argument("--temperature", type=float, nargs="+", default=[2.0], help="one table each (default 2)")
    summary = "; ".join(f"{name}: {text}" for name, text in ABLATIONS.items())
    predictor.add_argument("--out", type=Path, help="also write the tables there, as JSON")
    predictor.add_argument("--ablate", choices=list(ABLATIONS), help=f"vary one thing of each checkpoint; {summary}")


def main(arguments: argparse.Namespace) -> int:
    """Write one Markdown table for each temperature; differences are to the untuned model."""
    from lmms_kvtp.commands.predictor_data import examples, untuned
    from lmms_kvtp.predictor import compare
    from lmms_kvtp.rendering import markdown
    from lmms_kvtp.vlms.base import load_vlm

    folder = arguments.features or Path("features")
    found = examples(arguments, arguments.split, folder)
    plain = untuned(arguments)
    vlm = load_vlm(arguments.shared) if arguments.shared else None
    candidates = compare.baselines(plain)
    for checkpoint in arguments.checkpoint:
        for label, settings in compare.variants(arguments.ablate).items():
            candidates[f"{checkpoint}{label}"] = compare.trained(checkpoint, plain, vlm, settings)
    candidates["oracle"] = compare.oracle(plain)
    temperatures = compare.TEMPERATURES if arguments.ablate == "temperature" else arguments.temperature
    outcomes = compare.measure_candidates(candidates, found, folder, temperatures)
    tables = [
        [[f"temperature {t:g}", *compare.COLUMNS], *compare.candidates_table(of_t, compare.UNTUNED)]
        for t, of_t in outcomes.items()
    ]
    kinds, rows = compare.by_kind(outcomes[temperatures[0]])
    if kinds:
        tables.append([["recall by kind", *kinds], *rows])
    for header, *lines in tables:
        sys.stdout.write(f"\n{markdown(header, lines)}\n")
    if arguments.out is not None:
        names = ("checkpoint", "shared", "index", "synthetic", "split", "pretrained", "ablate")
        written = {name: getattr(arguments, name) for name in names} | {"tables": tables}
        write_whole(arguments.out, json.dumps(written, indent=1, default=str) + "\n")
    return 0
