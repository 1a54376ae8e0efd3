"""What pruning between layers adds to prefill, what it saves, and its peak memory, on a random Qwen2.

python benchmarks/layer_pruning.py --output benchmarks/results/layer_pruning_cpu.json

The model has the proportions of Qwen2-7B (heads of 128, MLP 5.25 times the width), random weights and few layers. The
rounds of all methods are interleaved, so that a busy machine slows all alike; medians are given. Seconds are those that
the process had a CPU, which on one thread are wall seconds of an idle machine. `select_seconds` is
the time within the selections, `saved_seconds` what the shorter layers save beside it. Peak memory counts the bytes of
all live tensors above the weights, after each operation; what a kernel takes within one operation is not seen.
"""

import argparse
import json
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM, __version__

from lmms_kvtp.layer_pruning.base import Stage, StageInput, layer_pruning
from lmms_kvtp.layer_pruning.fastv import FastV
from lmms_kvtp.layer_pruning.prunevid import PruneVid
from lmms_kvtp.layer_pruning.pyramiddrop import PyramidDrop
from lmms_kvtp.types import TEXT, VISION, Prompt


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, while they live."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__()
        self.live, self.peak, self.known = 0, 0, set[int]()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it returns."""
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self._count(made.untyped_storage(), inputs)
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key = storage._cdata
        if key in inputs or key in self.known:
            return
        self.known.add(key)
        self.live += storage.nbytes()
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def timed(stages: Sequence[Stage], seconds: list[float]) -> list[Stage]:
    """The same stages; their selections append how long they took."""

    def wrap(select: Callable[[StageInput], Tensor]) -> Callable[[StageInput], Tensor]:
        def run(inputs: StageInput) -> Tensor:
            start = time.process_time()
            keep = select(inputs)
            seconds.append(time.process_time() - start)
            return keep

        return run

    return [replace(stage, select=wrap(stage.select)) for stage in stages]


@torch.no_grad()
def prefill(model: Qwen2ForCausalLM, prompt: Prompt, stages: Sequence[Stage]) -> tuple[int, ...]:
    """Read the prompt once; the positions that each layer processed."""
    with layer_pruning(model.model.layers, stages, prompt) as trace:
        model(inputs_embeds=prompt.embeds[None], use_cache=True, logits_to_keep=1)
    return trace.layer_lengths


def measure(model: Qwen2ForCausalLM, prompt: Prompt, methods: dict[str, Sequence[Stage]], rounds: int) -> list[Any]:
    """One row for each method."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    selecting: dict[str, list[float]] = {name: [] for name in methods}
    for stages in methods.values():
        prefill(model, prompt, stages)  # warm up
    for _ in range(rounds):
        for name, stages in methods.items():
            selections: list[float] = []
            start = time.process_time()
            prefill(model, prompt, timed(stages, selections))
            seconds[name].append(time.process_time() - start)
            selecting[name].append(sum(selections))
    peaks, lengths = {}, {}
    for name, stages in methods.items():
        with LiveBytes() as memory:
            lengths[name] = prefill(model, prompt, stages)
        peaks[name] = memory.peak
    whole = statistics.median(seconds["none"])
    rows = []
    for name in methods:
        total, select = statistics.median(seconds[name]), statistics.median(selecting[name])
        saved = whole - total + select
        rows.append(
            {
                "method": name,
                "layer_lengths": lengths[name],
                "prefill_seconds": round(total, 4),
                "prefill_seconds_all": [round(value, 4) for value in seconds[name]],
                "select_seconds": round(select, 4),
                "saved_seconds": round(saved, 4),
                "select_over_saved": round(select / saved, 4) if name != "none" else None,
                "peak_bytes": peaks[name],
                "peak_over_unpruned": round(peaks[name] / peaks["none"], 4),
                "gpu": "not measured",
            }
        )
    return rows


def main() -> None:
    """Measure, and write the rows with what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    for name, default in (("layers", 8), ("heads", 4), ("positions", 4096), ("question", 114), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    width, layers = 128 * arguments.heads, arguments.layers
    config = Qwen2Config(
        hidden_size=width,
        intermediate_size=21 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=1,
        vocab_size=512,
        attn_implementation="sdpa",
    )
    model = Qwen2ForCausalLM(config).eval()
    vision = arguments.positions - 14 - arguments.question
    role = torch.tensor([TEXT] * 14 + [VISION] * vision + [TEXT] * arguments.question)
    frame = torch.cat([torch.full((14,), -1), torch.arange(vision) // 31, torch.full((arguments.question,), -1)])
    prompt = Prompt(torch.randn(arguments.positions, width), role, frame)
    methods: dict[str, Sequence[Stage]] = {
        "none": (),
        "fastv layer=2 ratio=0.5": FastV().stages(),
        f"prunevid layer={10 * layers // 28} alpha=0.4": PruneVid(layer=10 * layers // 28).stages(),
        "pyramiddrop quarters": PyramidDrop(layers=tuple(layers * i // 4 for i in (1, 2, 3))).stages(),
    }
    record = {
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        "model": {"hidden": width, "intermediate": config.intermediate_size, "dtype": "float32", "attention": "sdpa"},
        "machine": {"processor": platform.machine(), "torch": torch.__version__, "transformers": __version__},
        "rows": measure(model, prompt, methods, arguments.rounds),
    }
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
