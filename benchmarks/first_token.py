"""Time to the first token at the sizes of LLaVA-Video-7B, all tokens against pruned: random weights, a CPU or a GPU.

    python benchmarks/first_token.py --frames 32 --dtype bfloat16 --device cpu --rounds 2 \
        --encoders shared base-224 --alone random prumerge --output benchmarks/results/first_token_cpu.json
    python benchmarks/first_token.py --output benchmarks/results/first_token_gpu.json

Frames lie as pixels on the device; the clock stops when the first token is chosen. Methods take turns, every other
round in reverse, after one round on two frames that does not count; medians are given. `stock` is the unpruned model
run by transformers' own class on the same weights, so that no slow baseline of ours flatters a method; its prompt has
one newline and no instruction, and its ratio stands against that of its operations. Seconds of the whole way are those
of the device's events; those of stages are the ledger's, which waits for the device at their edges.

- ratio: seconds of all tokens over the method's; ceiling: the same of operations (causal), which no run can pass;
- of ceiling: ratio over ceiling, in %;
- helper: encoder, scorer and pruner in % of the seconds of all tokens;
- prefill: its operations a second in % of the measured rate of large matrix products, attention causal;
- others: share of the processors' time that other processes took meanwhile, in %.

`--model tiny --frames 4 --encoders shared` runs the same code in seconds.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.bench.first_token import (
    QUESTION,
    FirstToken,
    first_tokens,
    median_cost,
    preprocess_seconds,
    random_pixels,
)
from lmms_kvtp.bench.random_model import ENCODERS, random_llava, random_parts
from lmms_kvtp.cost.flops import prefill_flops
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.doctor.reference import transformers_model
from lmms_kvtp.forecast.machine import matrix_rate
from lmms_kvtp.forecast.models import Spec, find_spec
from lmms_kvtp.method import KVTP, Method, build_method
from lmms_kvtp.presets import FULL, settings_of
from lmms_kvtp.rendering import markdown
from lmms_kvtp.video.pixels import ResizedPixels
from lmms_kvtp.vlms.decoding import now
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions

TARGETS = {("shared", 0.2): 95.0, ("shared", 0.1): 90.0, ("base-224", 0.2): 90.0, ("base-224", 0.1): 90.0}
"""Least share of the ceiling, in %, by encoder and share of tokens kept."""
STOCK = "stock"
"""Name of the unpruned model as transformers runs it."""
HELPERS = ("encoder", "scorer", "pruner")


def busy_elsewhere() -> float:
    """Seconds of the processors that other processes had, since the machine's start."""
    now_, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return float(now_.user + now_.nice + now_.system - own.user - own.system)


@dataclass(frozen=True)
class Row:
    """A method with an encoder."""

    encoder: str
    keep_ratio: float
    method: Method


def plan(
    spec: Spec,
    vlm: LlavaVideo,
    encoders: Sequence[str],
    pruners: Sequence[str],
    alone: Sequence[str],
    ratios: Sequence[float],
    folder: Path,
) -> tuple[dict[str, Row], list[ResizedPixels]]:
    """The unpruned model and all methods, by name, and what their towers read; an encoder's weights are there once."""
    rows = {FULL: Row("none", 1.0, build_method(settings_of(FULL, 1.0), KVTP))}
    specs = [spec.spec(0)]
    for name in encoders:
        parts = random_parts(name, spec, folder / name, vlm)
        specs.append(parts.pixel_spec)
        encoder = build_method(parts.settings, KVTP).encoder
        for pruner, ratio in product(pruners, ratios):
            method = build_method({**settings_of(f"kvtp+{pruner}", ratio), **parts.settings}, KVTP)
            rows[f"kvtp+{pruner} {100 * ratio:g}%, {name}"] = Row(name, ratio, replace(method, encoder=encoder))
    for pruner in alone:
        method = build_method({**settings_of(pruner, ratios[0]), "encoder": "own"}, KVTP)
        rows[f"{pruner} {100 * ratios[0]:g}%, own tower"] = Row("own", ratios[0], method)
    return rows, list(dict.fromkeys(specs))


class Stock:
    """The unpruned model of transformers' own class, on the weights of `vlm`."""

    def __init__(self, vlm: LlavaVideo, pixels: Float[Tensor, "T 3 h w"]) -> None:
        """Lay out the prompt: the video's tokens and its newline between the question's."""
        self.model, self.vlm, self.pixels = transformers_model(vlm), vlm, pixels
        before, behind = vlm.chat.around(QUESTION.prompt, visuals=True)
        unused = set(range(len(before) + len(behind) + 1)) - {*before, *behind}
        video = self.model.config.video_token_id = min(unused)
        tokens = len(pixels) * prod(-(-side // 2) for side in vlm.pool.patches) + 1
        self.ids = torch.tensor([[*before, *[video] * tokens, *behind]], device=vlm.device)

    @torch.inference_mode()
    def seconds(self) -> float:
        """From pixels to the first token, once."""
        begin = now(self.vlm.device)
        made = self.model(self.ids, pixel_values_videos=self.pixels[None], use_cache=True, logits_to_keep=1)
        made.logits[0, -1].argmax().item()
        return now(self.vlm.device) - begin

    def operations(self, full: SampleCost) -> int:
        """With causal attention; tower and projector as those of `full`."""
        return full.flops["vision"] + full.flops["projector"] + prefill_flops(self.vlm.llm, self.lengths, causal=True)

    @property
    def lengths(self) -> list[int]:
        """Prompt positions in each layer."""
        return [self.ids.shape[1]] * self.vlm.llm.layers


def describe(
    name: str, row: Row, runs: Sequence[FirstToken], full: Sequence[FirstToken], rate: float
) -> dict[str, Any]:
    """Everything about one method."""
    seconds, whole = (statistics.median(run.seconds for run in some) for some in (runs, full))
    cost = median_cost(runs)
    helper = sum(cost.seconds.get(stage, 0.0) for stage in HELPERS)
    return {
        **compared(name, [run.seconds for run in runs], [run.seconds for run in full]),
        "keep_ratio": row.keep_ratio,
        "prompt_tokens": cost.prompt_tokens,
        "ceiling": operations(full[0].cost) / operations(cost),
        "percent_of_ceiling": 100 * whole / seconds / (operations(full[0].cost) / operations(cost)),
        "target": TARGETS.get((row.encoder, row.keep_ratio)),
        "helper_percent": 100 * helper / whole,
        "stages": {stage: round(spent, 5) for stage, spent in cost.seconds.items() if spent},
        "prefill_percent_of_matrix_rate": 100 * cost.prefill_flops_causal / cost.seconds["prefill"] / rate,
        "prefill_percent_full_square": 100 * cost.flops["prefill"] / cost.seconds["prefill"] / rate,
        "peak_bytes": runs[-1].cost.peak_bytes,
    }


def compared(name: str, runs: Sequence[float], full: Sequence[float]) -> dict[str, Any]:
    """Seconds of a row, and those of all tokens over them."""
    return {
        "method": name,
        "seconds": statistics.median(runs),
        "seconds_range": [min(runs), max(runs)],
        "ratio": statistics.median(full) / statistics.median(runs),
        "ratios": [one / other for one, other in zip(full, runs, strict=True)],
    }


def operations(cost: SampleCost) -> int:
    """Up to the first token, with causal attention."""
    return cost.flops_total - cost.flops["generate"] - cost.flops["prefill"] + cost.prefill_flops_causal


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For people."""
    lines = []
    for row in rows:
        peak, share = row.get("peak_bytes"), row.get("prefill_percent_of_matrix_rate")
        lines.append(
            [
                str(row["method"]),
                f"{row['prompt_tokens']:,}",
                f"{row['seconds']:.4g} ({row['seconds_range'][0]:.4g} to {row['seconds_range'][1]:.4g})",
                f"{row['ratio']:.2f} of {row['ceiling']:.2f}",
                f"{row['percent_of_ceiling']:.0f}" + (f" [{row['target']:g}]" if row.get("target") else ""),
                f"{row['helper_percent']:.1f}" if "helper_percent" in row else "",
                "" if share is None else f"{share:.0f}",
                "" if peak is None else f"{peak / 2**30:.1f}",
                ", ".join(f"{stage} {spent:.3g}" for stage, spent in row.get("stages", {}).items() if spent >= 0.0005),
            ]
        )
    head = ["method", "prompt", "s", "ratio of ceiling", "% of ceiling [target]", "helper %", "prefill % of rate"]
    return markdown([*head, "peak GiB", "stages, s"], lines)


@dataclass
class Others:
    """What other processes took of the processors' time since this was made."""

    begin: float = field(default_factory=busy_elsewhere)
    start: float = field(default_factory=time.monotonic)

    def percent(self) -> float:
        """In % of all processors."""
        return 100 * (busy_elsewhere() - self.begin) / (time.monotonic() - self.start) / (os.cpu_count() or 1)


def main() -> None:
    """Measure, print, and write a file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llava-video-7b")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device")
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--pruners", nargs="+", default=["prumerge"], help="behind KVTP, with each encoder")
    parser.add_argument(
        "--alone",
        nargs="*",
        default=["random", "prumerge"],
        help="pruners on the model's own tower, at the first ratio",
    )
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.2, 0.1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    spec = find_spec(arguments.model)
    vlm = random_llava(spec, LoadOptions(dtype=arguments.dtype, device=arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        chosen = (arguments.encoders, arguments.pruners, arguments.alone, arguments.ratios)
        rows, specs = plan(spec, vlm, *chosen, Path(scratch))
        methods = {name: row.method for name, row in rows.items()}
        video = random_pixels(specs, arguments.frames, vlm.device, vlm.dtype)
        stock = Stock(vlm, video.pixels[spec.spec(0)])
        short = random_pixels(specs, 2, vlm.device, vlm.dtype)
        first_tokens(vlm, methods, short, rounds=1, warm=0)
        Stock(vlm, short.pixels[spec.spec(0)]).seconds()
        rate, others = matrix_rate(vlm.device, vlm.dtype), Others()
        found: dict[str, list[FirstToken]] = {name: [] for name in methods}
        plain: list[float] = []
        for number in range(arguments.rounds):
            for name in list(methods)[:: -1 if number % 2 else 1]:
                if name == FULL:
                    plain.append(stock.seconds())
                found[name] += first_tokens(vlm, {name: methods[name]}, video, rounds=1, warm=0)[name]
                print(f"{number} {name} {found[name][-1].seconds:.3f} s", file=sys.stderr, flush=True)
        rate, elsewhere = max(rate, matrix_rate(vlm.device, vlm.dtype)), others.percent()
    full = found[FULL]
    described = [describe(name, rows[name], runs, full, rate) for name, runs in found.items()]
    ceiling = operations(full[0].cost) / stock.operations(full[0].cost)
    theirs = compared(STOCK, plain, [run.seconds for run in full])
    theirs |= {"keep_ratio": 1.0, "prompt_tokens": stock.lengths[0], "ceiling": ceiling}
    described.insert(1, theirs | {"percent_of_ceiling": 100 * theirs["ratio"] / ceiling})
    frame = preprocess_seconds(vlm.pixel_spec)
    on_gpu = vlm.device.type == "cuda"
    machine = torch.cuda.get_device_name(vlm.device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    sys.stdout.write(
        f"{spec.name}, random weights, {arguments.frames} frames, {vlm.dtype}, {machine}, {rate / 1e12:.3g} TFLOP/s in "
        f"matrix products, medians of {arguments.rounds}; other processes took {elsewhere:.1f} % of the processors\n\n"
        f"{table(described)}\n"
        f"beside: pixels of 720p frames take {1000 * frame:.1f} ms each, {frame * arguments.frames:.2f} s in all\n"
    )
    if arguments.output:
        held = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
        held |= {"machine": machine, "torch": torch.__version__, "others_percent": f"{elsewhere:.1f}"}
        record = {"settings": held, "matrix_rate": rate, "preprocess_seconds_per_frame": frame, "rows": described}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
