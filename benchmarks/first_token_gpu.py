"""Time to the first token at the sizes of LLaVA-Video-7B, KVTP included, against all tokens: random weights, one GPU.

    python benchmarks/first_token_gpu.py --output benchmarks/results/first_token_gpu.json

128 frames lie as pixels on the device; the clock stops when the first token is chosen. Methods take turns, every other
round in reverse, after one round that does not count; medians are given. Seconds of the whole way are those of the
device's events; those of stages are the ledger's, which waits for the device at their edges. In about five minutes:

- ratio: seconds of all tokens over the method's; ceiling: the same of operations (causal), which no run can pass;
- helper: encoder, scorer and pruner in % of the seconds of all tokens;
- prefill: its operations a second in % of the measured rate of large matrix products, attention causal.

On a CPU, `--model tiny --frames 4 --encoders shared` runs the same code in seconds.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lmms_kvtp.bench.first_token import FirstToken, first_tokens, median_cost, preprocess_seconds, random_pixels
from lmms_kvtp.bench.random_model import ENCODERS, random_llava, random_parts
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.forecast.machine import matrix_rate
from lmms_kvtp.forecast.models import Spec, find_spec
from lmms_kvtp.method import KVTP, Method, build_method
from lmms_kvtp.presets import FULL, settings_of
from lmms_kvtp.rendering import markdown
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.vlms.llava_video import LoadOptions

TARGETS = {"so400m-384": {0.2: 1.8, 0.1: 2.0}, "base-224": {0.2: 2.8, 0.1: 3.4}, "shared": {0.2: 2.8, 0.1: 3.4}}
"""Least ratio, by encoder and share of tokens kept."""
HELPERS = ("encoder", "scorer", "pruner")


@dataclass(frozen=True)
class Row:
    """A method with an encoder."""

    encoder: str
    pruner: str
    keep_ratio: float
    method: Method


def plan(
    spec: Spec, encoders: Sequence[str], pruners: Sequence[str], ratios: Sequence[float], folder: Path, device: str
) -> tuple[dict[str, Row], list[ResizedPixels]]:
    """The unpruned model and all methods, by name, and what their towers read; an encoder's weights are there once."""
    rows = {FULL: Row("none", "none", 1.0, build_method(settings_of(FULL, 1.0), KVTP))}
    specs = [spec.pixel_spec]
    for name in encoders:
        parts = random_parts(name, spec, folder / name, device)
        specs.append(parts.pixel_spec)
        encoder = build_method(parts.settings, KVTP).encoder
        for pruner in pruners:
            for ratio in ratios:
                method = build_method({**settings_of(f"kvtp+{pruner}", ratio), **parts.settings}, KVTP)
                shared = replace(method, encoder=encoder)
                rows[f"kvtp+{pruner} {100 * ratio:g}%, {name}"] = Row(name, pruner, ratio, shared)
    return rows, list(dict.fromkeys(specs))


def describe(
    name: str, row: Row, runs: Sequence[FirstToken], full: Sequence[FirstToken], rate: float
) -> dict[str, Any]:
    """Everything about one method."""
    seconds, whole = (statistics.median(run.seconds for run in some) for some in (runs, full))
    cost = median_cost(runs)
    helper = sum(cost.seconds.get(stage, 0.0) for stage in HELPERS)
    return {
        "method": name,
        "keep_ratio": row.keep_ratio,
        "prompt_tokens": cost.prompt_tokens,
        "seconds": seconds,
        "seconds_range": [min(run.seconds for run in runs), max(run.seconds for run in runs)],
        "ratio": whole / seconds,
        "ratios": [one.seconds / other.seconds for one, other in zip(full, runs, strict=True)],
        "ceiling": operations(full[0].cost) / operations(cost),
        "target": TARGETS.get(row.encoder, {}).get(row.keep_ratio),
        "helper_percent": 100 * helper / whole,
        "stages": {stage: round(spent, 5) for stage, spent in cost.seconds.items() if spent},
        "prefill_percent_of_matrix_rate": 100 * cost.prefill_flops_causal / cost.seconds["prefill"] / rate,
        "prefill_percent_full_square": 100 * cost.flops["prefill"] / cost.seconds["prefill"] / rate,
        "peak_bytes": runs[-1].cost.peak_bytes,
    }


def operations(cost: SampleCost) -> int:
    """Up to the first token, with causal attention."""
    return cost.flops_total - cost.flops["generate"] - cost.flops["prefill"] + cost.prefill_flops_causal


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people."""
    lines = []
    for row in rows:
        peak = row["peak_bytes"]
        lines.append(
            [
                str(row["method"]),
                f"{row['seconds']:.3f}",
                f"{row['ratio']:.2f} [{row['ceiling']:.2f}]",
                "" if row["target"] is None else f"{row['target']}",
                f"{row['helper_percent']:.1f}",
                f"{row['prefill_percent_of_matrix_rate']:.0f}",
                "not measured" if peak is None else f"{peak / 2**30:.1f}",
                ", ".join(f"{stage} {1000 * spent:.0f}" for stage, spent in row["stages"].items()),
            ]
        )
    head = ["method", "s", "ratio [ceiling]", "target", "helper %", "prefill % of rate", "peak GiB", "stages, ms"]
    return markdown(head, lines)


def main() -> None:
    """Measure, print, and write a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llava-video-7b")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--pruners", nargs="+", default=["random", "prumerge"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.2, 0.1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    spec = find_spec(arguments.model)
    vlm = random_llava(spec, LoadOptions(dtype=arguments.dtype, device=arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        rows, specs = plan(
            spec, arguments.encoders, arguments.pruners, arguments.ratios, Path(scratch), str(vlm.device)
        )
        methods = {name: row.method for name, row in rows.items()}
        video = random_pixels(specs, arguments.frames, vlm.device, vlm.dtype)
        rate = matrix_rate(vlm.device, vlm.dtype)
        found = first_tokens(vlm, methods, video, arguments.rounds)
        rate = max(rate, matrix_rate(vlm.device, vlm.dtype))
    described = [describe(name, rows[name], runs, found[FULL], rate) for name, runs in found.items()]
    frame = preprocess_seconds(vlm.pixel_spec)
    machine = torch.cuda.get_device_name(vlm.device) if vlm.device.type == "cuda" else "CPU"
    sys.stdout.write(
        f"{spec.name}, random weights, {arguments.frames} frames, {vlm.dtype}, {machine}, "
        f"{rate / 1e12:.3g} TFLOP/s in matrix products, medians of {arguments.rounds}\n\n{table(described)}\n"
        f"beside: pixels of 720p frames take {1000 * frame:.1f} ms each, {frame * arguments.frames:.2f} s in all\n"
    )
    if arguments.output:
        held = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
        held |= {"machine": machine, "torch": torch.__version__}
        record = {"settings": held, "matrix_rate": rate, "preprocess_seconds_per_frame": frame, "rows": described}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
