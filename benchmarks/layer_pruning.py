"""What pruning between layers adds to prefill, what it saves, and its peak memory, on a random Qwen2.

python benchmarks/layer_pruning.py --write

writes benchmarks/results/layer_pruning_cpu.json and the table in docs/layer_pruning.md.

The model has the proportions of Qwen2-7B (heads of 128, MLP 5.25 times the width), random weights and few layers. The
rounds of all methods are interleaved, so that a busy machine slows all alike; medians are given. Seconds are those that
the process had a CPU, which on one thread are wall seconds of an idle machine. `select_seconds` is the time within the
selections, `saved_seconds` what the shorter layers save beside it. Peak memory is what the resident set of a process of
its own grows by in one prefill, kernels included; the median of several processes.

On a GPU, `--device cuda --heads 28 --layers 28 --positions 12800`: bfloat16, times between events of the device, and
the allocator's peak.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pruning import cpu_name, status
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, __version__

from lmms_kvtp.layer_pruning.base import Stage, StageInput, layer_pruning
from lmms_kvtp.layer_pruning.fastv import FastV
from lmms_kvtp.layer_pruning.prunevid import PruneVidLayers
from lmms_kvtp.layer_pruning.pyramiddrop import PyramidDrop
from lmms_kvtp.rendering import markdown, write_between
from lmms_kvtp.types import TEXT, VISION, Prompt

RESULTS, PAGE = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs" / "layer_pruning.md"
NONE = "none"
SIZES = {"layers": 8, "heads": 4, "positions": 4096, "question": 114}
"""Default sizes of the model and its prompt."""


def methods(layers: int) -> dict[str, Sequence[Stage]]:
    """What is compared, at the depths that the papers' layers have in a model of 28."""
    return {
        NONE: (),
        "fastv layer=2 ratio=0.5": FastV().stages(),
        f"prunevid layer={10 * layers // 28} alpha=0.4": PruneVidLayers(layer=10 * layers // 28).stages(),
        "pyramiddrop quarters": PyramidDrop(layers=tuple(layers * i // 4 for i in (1, 2, 3))).stages(),
    }


def build(arguments: argparse.Namespace) -> tuple[Qwen2ForCausalLM, Prompt]:
    """A random model, and a prompt of text, frames of 31 tokens, and a question."""
    torch.manual_seed(0)
    width = 128 * arguments.heads
    config = Qwen2Config(
        hidden_size=width,
        intermediate_size=21 * width // 4,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=max(1, arguments.heads // 7),
        vocab_size=512,
        attn_implementation="sdpa",
    )
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    model = Qwen2ForCausalLM(config).to(arguments.device, dtype).eval()
    vision = arguments.positions - 14 - arguments.question
    role = torch.tensor([TEXT] * 14 + [VISION] * vision + [TEXT] * arguments.question)
    frame = torch.cat([torch.full((14,), -1), torch.arange(vision) // 31, torch.full((arguments.question,), -1)])
    embeds = torch.randn(arguments.positions, width).to(arguments.device, dtype)
    return model, Prompt(embeds, role.to(arguments.device), frame.to(arguments.device))


def mark(device: str) -> Any:
    """A point in time: seconds of the process, or an event of the GPU."""
    if device == "cpu":
        return time.process_time()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, end: Any, device: str) -> float:
    """Seconds from one mark to another."""
    if device == "cpu":
        return float(end - start)
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def timed(stages: Sequence[Stage], marks: list[tuple[Any, Any]], device: str) -> list[Stage]:
    """Wrap stages so that their selections append when they began and ended."""

    def wrap(select: Callable[[StageInput], Tensor]) -> Callable[[StageInput], Tensor]:
        def run(inputs: StageInput) -> Tensor:
            start = mark(device)
            keep = select(inputs)
            marks.append((start, mark(device)))
            return keep

        return run

    return [replace(stage, select=wrap(stage.select)) for stage in stages]


@torch.no_grad()
def prefill(model: Qwen2ForCausalLM, prompt: Prompt, stages: Sequence[Stage]) -> tuple[int, ...]:
    """Read the prompt once; the positions that each layer processed."""
    with layer_pruning(model.model.layers, stages, prompt) as trace:
        model(inputs_embeds=prompt.embeds[None], use_cache=True, logits_to_keep=1)
    return trace.layer_lengths


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each method."""
    device, (model, prompt) = arguments.device, build(arguments)
    compared = methods(arguments.layers)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    selecting: dict[str, list[float]] = {name: [] for name in compared}
    lengths = {name: prefill(model, prompt, stages) for name, stages in compared.items()}  # warms up, too
    for _ in range(arguments.rounds):
        for name, stages in compared.items():
            marks: list[tuple[Any, Any]] = []
            start = mark(device)
            prefill(model, prompt, timed(stages, marks, device))
            seconds[name].append(between(start, mark(device), device))
            selecting[name].append(sum(between(*pair, device) for pair in marks))
    whole, peaks = statistics.median(seconds[NONE]), memory(arguments)
    rows = []
    for name in compared:
        total, select = statistics.median(seconds[name]), statistics.median(selecting[name])
        saved, peak = whole - total + select, statistics.median(peaks[name])
        rows.append(
            {
                "method": name,
                "layer_lengths": lengths[name],
                "prefill_seconds": round(total, 4),
                "prefill_seconds_all": [round(value, 4) for value in seconds[name]],
                "select_seconds": round(select, 4),
                "saved_seconds": round(saved, 4),
                "select_over_saved": round(select / saved, 4) if name != NONE else None,
                "peak_bytes": peak,
                "peak_bytes_all": peaks[name],
                "peak_over_unpruned": round(peak / statistics.median(peaks[NONE]), 4),
                "gpu": "not measured" if device == "cpu" else torch.cuda.get_device_name(),
            }
        )
    return rows


def memory(arguments: argparse.Namespace) -> dict[str, list[int]]:
    """Peak memory of each method, in several processes of its own, interleaved."""
    sizes = [part for name in (*SIZES, "device", "threads") for part in (f"--{name}", str(getattr(arguments, name)))]
    found: dict[str, list[int]] = {name: [] for name in methods(arguments.layers)}
    for _ in range(arguments.processes):
        for name, peaks in found.items():
            command = [sys.executable, __file__, "--memory-of", name, *sizes]
            peaks.append(int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
    return found


def peak_of(arguments: argparse.Namespace) -> int:
    """Bytes by which one prefill grows the memory of this process, or of the GPU's allocator, at most."""
    model, prompt = build(arguments)
    stages = methods(arguments.layers)[arguments.memory_of]
    start = Prompt(prompt.embeds[:200], prompt.role[:200], prompt.frame[:200])
    prefill(model, start, ())  # libraries set up their buffers
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        prefill(model, prompt, stages)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    resident = status("VmRSS")
    prefill(model, prompt, stages)
    return status("VmHWM") - resident


def main() -> None:
    """Measure, and write the rows with what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write results and table; only printed without")
    for name, default in {**SIZES, "rounds": 5, "threads": 1, "processes": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--memory-of", help="print the peak memory of this method alone, in bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(peak_of(arguments))
        return
    left_out = ("write", "memory_of")
    cuda = arguments.device == "cuda"
    record: dict[str, Any] = {
        "settings": {name: value for name, value in vars(arguments).items() if name not in left_out},
        "model": {"hidden": 128 * arguments.heads, "dtype": "bfloat16" if cuda else "float32", "attention": "sdpa"},
        "machine": {
            "processor": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {cpu_name()}",
            "torch": torch.__version__,
            "transformers": __version__,
        },
        "rows": measure(arguments),
    }
    print(table(record["rows"]))
    if arguments.write:
        (RESULTS / f"layer_pruning_{arguments.device}.json").write_text(json.dumps(record, indent=1) + "\n")
        if not cuda:
            write_between(PAGE, table(record["rows"]), "layer costs")


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as docs/layer_pruning.md shows them."""
    header = ["method", "prefill, s", "selection, s", "saves, s", "selection, of what it saves", "peak memory", "GPU"]
    cells = []
    for row in rows:
        part = "-" if row["select_over_saved"] is None else f"{row['select_over_saved']:.1%}"
        seconds = [f"{row[key]:.2f}" for key in ("prefill_seconds", "select_seconds", "saved_seconds")]
        cells.append([row["method"], *seconds, part, f"{row['peak_over_unpruned']:.2f}", row["gpu"]])
    return markdown(header, cells)


if __name__ == "__main__":
    main()
