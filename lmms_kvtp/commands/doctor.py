"""`lmms-kvtp doctor`: run the gates that a method must pass before its scores count."""

import argparse
import re
import sys
from pathlib import Path

from lmms_kvtp.commands.arguments import at_least_one
from lmms_kvtp.commands.cells import only
from lmms_kvtp.presets import METHOD_HELP
from lmms_kvtp.rendering import markdown
from lmms_kvtp.settings import pairs

SHOWN = {True: "passed", False: "FAILED", None: "-"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add method, model, and where the record goes."""
    parser.add_argument("--method", help=METHOD_HELP)
    parser.add_argument("--reference", action="store_true", help="instead: its logits against other implementations")
    parser.add_argument("--keep-ratio", type=float, help="share of vision tokens kept (default 0.2)")
    parser.add_argument("--model", default="tiny", help="folder or hub id (default: the embedded model)")
    parser.add_argument("--model_args", default="", help="as of lmms-eval: torch_dtype=bfloat16,device=cuda, ...")
    parser.add_argument("--videos", type=at_least_one, default=6, help="synthetic, four questions on each (default 6)")
    parser.add_argument("--frames", type=at_least_one, default=64, help="of a video, at most (default %(default)s)")
    parser.add_argument("--baseline", type=Path, help="finished runs of the unpruned model, held to published scores")
    parser.add_argument("--out", type=Path, help="also write the record: a .json file, or the folder of the runs")


def main(arguments: argparse.Namespace) -> int:
    """Print the table of gates, or of references; 1 when one of them failed."""
    from lmms_kvtp.vlms.base import load_vlm
    from lmms_kvtp.vlms.load_options import ALIASES

    names = {field: alias for alias, field in ALIASES.items()}  # as load_options of the Python interface takes them
    given = {names.get(key, key): value for key, value in pairs(arguments.model_args).items()}
    name = given.setdefault("pretrained", arguments.model)
    if arguments.model not in (name, "tiny"):
        raise ValueError(f"--model {arguments.model} contradicts --model_args pretrained={name}; give one of them")
    if arguments.reference:
        return _compare(given)
    if arguments.method is None:
        raise ValueError("give --method NAME to examine a method, or --reference to examine the model")
    common = ",".join(f"{name}={value}" for name, value in given.items())
    from lmms_kvtp.api import Model
    from lmms_kvtp.doctor.exam import synthetic_exam
    from lmms_kvtp.doctor.expected import published_accuracy, recorded
    from lmms_kvtp.doctor.gates import examine
    from lmms_kvtp.leaderboard.gates import write_record
    from lmms_kvtp.leaderboard.provenance import row_name
    from lmms_kvtp.run.options import parse_arguments

    settings = parse_arguments(pairs(only(arguments.method, arguments.keep_ratio, common)))
    model = Model(load_vlm(settings.run.pretrained, settings.load))
    method, own = model.method(settings.method), {"max_frames_num", "max_num_frames"} & given.keys()
    frames = settings.frames.max_frames_num if own else arguments.frames
    gates = examine(synthetic_exam(model.vlm, method, arguments.videos, frames, recorded(settings.run.pretrained)))
    if arguments.baseline:
        gates.append(published_accuracy(arguments.baseline))
    rows = [[gate.name, SHOWN[gate.passed], gate.detail] for gate in gates]
    table = markdown(["gate", "", "what was found"], rows)
    sys.stdout.write(f"{row_name(arguments.method, method.describe())} on {name}\n\n{table}\n")
    if arguments.out:
        record = f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', arguments.method)}_gates.json"  # the leaderboard looks for it
        write_record(arguments.out if arguments.out.suffix == ".json" else arguments.out / record, method, name, gates)
    return int(any(gate.passed is False for gate in gates))


def _compare(given: dict[str, str]) -> int:
    """Print a line for each reference there is for this model; 1 where one differs."""
    from lmms_kvtp.doctor.reference import PUBLISHED, reference_logits, verdict_lines
    from lmms_kvtp.run.options import parse_arguments
    from lmms_kvtp.vlms.base import load_vlm

    pretrained, vlm = given["pretrained"], load_vlm(given["pretrained"], parse_arguments(given).load)
    checks = reference_logits(vlm)
    dtype, device = (str(part).removeprefix("torch.") for part in (vlm.dtype, vlm.device))
    sys.stdout.write(f"{pretrained} in {dtype} on {device}, without pruning\n{verdict_lines(checks)}\n")
    if not any(name in pretrained for name in PUBLISHED):
        sys.stdout.write(f"-    published logits are known of {', '.join(PUBLISHED)} only\n")
    return int(not all(check.passed for check in checks))
