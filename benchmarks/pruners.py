"""Time and peak memory of every pruner, each in a process of its own.

On the CPU, with one thread: `OMP_NUM_THREADS=1 nice python benchmarks/pruners.py`; it writes
benchmarks/results/pruners_cpu.json and the table in docs/methods.md; names of pruners renew the rows of these alone.
CPU seconds are those that the process had a CPU. `--dtype bfloat16` adds memory in that precision, and no seconds.
`--before COMMIT` runs each pruner of that commit, too, in turns of one call each, and writes the ratios to
benchmarks/results/pruners_before.json and a table in docs/methods.md.
On a GPU: `python benchmarks/pruners.py --device cuda` writes pruners_cuda.json; times are between events of the device.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pruning import cpu_name, spread, status, tree_of

from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.method import build_part
from lmms_kvtp.presets import names_of
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.rendering import as_code, markdown, write_between
from lmms_kvtp.types import FrameFeatures, FrameTokens

FRAMES, GRID, WIDTH, KEY_WIDTH, RATIO = 128, (14, 14), 3584, 1152, 0.2
CAPACITY = GRID[0] * GRID[1]
SHOTS = 16
"""Frames of a scene in the made-up video: tokens of a scene differ a little, those of two scenes a lot."""
LONG = 10.0
"""Seconds after which a pruner is not run again."""
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
"""What each device is timed in."""
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def video(pruner: TokenPruner, device: str, dtype: torch.dtype, frames: int) -> tuple[FrameTokens, FrameFeatures]:
    """Random scenes whose patches change by degrees, and the features that the pruner reads."""
    draw = torch.Generator().manual_seed(0)

    def moving(width: int) -> torch.Tensor:
        scenes = torch.randn(frames // SHOTS, CAPACITY, width, generator=draw).repeat_interleave(SHOTS, dim=0)
        restless = torch.rand(CAPACITY, 1, generator=draw)
        for shown in scenes:
            shown += restless * torch.randn(CAPACITY, width, generator=draw)
        return scenes

    makers: dict[str, Callable[[], torch.Tensor]] = {
        "image": lambda: moving(KEY_WIDTH).mean(dim=1),
        "keys": lambda: moving(KEY_WIDTH),
        "layer_keys": lambda: moving(KEY_WIDTH // 16),
        "patch_text": lambda: moving(KEY_WIDTH),
        "text": lambda: torch.randn(1, KEY_WIDTH, generator=draw),
        "probe_attention": lambda: torch.rand(frames, CAPACITY, generator=draw) / CAPACITY,
        "column_attention": lambda: torch.rand(frames, CAPACITY, generator=draw) / CAPACITY,
    }
    features = {name: makers[name]().to(device) for name in sorted(pruner.needs)}
    tokens = FrameTokens(moving(WIDTH).to(device, dtype), GRID)
    return tokens, FrameFeatures(times=torch.arange(frames).float(), **features)


def budgets(pruner: str, frames: int = FRAMES) -> torch.Tensor:
    """KVTP's budgets for made-up relevance; whole frames for the pruner that knows nothing else."""
    total = int(RATIO * frames * CAPACITY)
    if pruner == "none":
        return torch.where(torch.arange(frames) < total // CAPACITY, CAPACITY, 0)
    relevance = torch.randn(frames, generator=torch.Generator().manual_seed(1)) * 2.5
    return Softmax().allocate(relevance, total, CAPACITY)


@torch.inference_mode()
def measure(name: str, device: str, dtype: str, repeats: int, frames: int = FRAMES) -> dict[str, Any]:
    """One row; seconds only where the precision is that of the device's row."""
    pruner = build_part("pruner", name)
    tokens, features = video(pruner, device, getattr(torch, dtype), frames)
    wanted, size = budgets(name, frames), tokens.embeds.numel() * tokens.embeds.element_size()
    few = torch.arange(2)
    small = FrameTokens(tokens.embeds[:2], GRID)
    pruner.prune(small, features.select(few), wanted[few])  # libraries set up their buffers
    clock = gpu_seconds if device == "cuda" else cpu_seconds
    (packed, first), extra = with_peak(lambda: clock(lambda: pruner.prune(tokens, features, wanted)), device)
    row = {"pruner": name, "kept_tokens": len(packed.embeds), f"{dtype}_extra_over_tokens": round(extra / size, 3)}
    if dtype != DTYPES[device]:
        return row
    seconds = [first]  # memory was grown in this one, so it counts only where there is no time for another
    if first < LONG:
        seconds = [clock(lambda: pruner.prune(tokens, features, wanted))[1] for _ in range(repeats)]
    return {**row, "seconds": spread(seconds), "repeats": len(seconds)}


def cpu_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def gpu_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize()
    return result, float(start.elapsed_time(end)) / 1000


def with_peak(run: Callable[[], Any], device: str) -> tuple[Any, int]:
    """What a call returns, and by how many bytes memory grew at most while it ran; the result counts."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        return result, torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    resident = status("VmRSS")
    result = run()
    return result, status("VmHWM") - resident


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as docs/methods.md shows them."""
    header = [
        "pruner",
        "CPU seconds",
        "spread",
        "extra memory, float32",
        "extra memory, bfloat16",
        "tokens kept",
        "GPU",
    ]
    return markdown(
        header,
        [
            [
                as_code(row["pruner"]),
                f"{row['seconds']['median']:.2f}" if "seconds" in row else "not measured",
                f"{row['seconds']['min']:.2f} to {row['seconds']['max']:.2f}" if "seconds" in row else "-",
                *(_of_tokens(row, dtype) for dtype in ("float32", "bfloat16")),
                str(row["kept_tokens"]),
                "not measured",
            ]
            for row in rows
        ],
    )


def _of_tokens(row: dict[str, Any], dtype: str) -> str:
    extra = row.get(f"{dtype}_extra_over_tokens")
    return "not measured" if extra is None else f"{extra:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pruner", nargs="*", help="renew these rows alone")
    parser.add_argument("--device", choices=list(DTYPES), default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="by default the one of the device's row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--row", action="store_true", help="measure in this process, and print each pruner's row")
    parser.add_argument("--frames", type=int, default=FRAMES, help="of the made-up video, at least 16, for a try")
    parser.add_argument("--before", help="a commit of this repository, to which this code is compared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.row:
        dtype = options.dtype or DTYPES[options.device]
        for name in options.pruner or names_of("pruner"):
            print(json.dumps(measure(name, options.device, dtype, options.repeats, options.frames)), flush=True)
        return
    if options.before:
        compare(options.pruner or names_of("pruner"), options.before, options.repeats)
        return
    for name in options.pruner or names_of("pruner"):
        command = [sys.executable, __file__, name, "--row", "--device", options.device]
        command += ["--repeats", str(options.repeats), *(["--dtype", options.dtype] if options.dtype else [])]
        # memory alone: blocks that are freed go back at once, so that the resident set is that of live tensors
        live = {"MALLOC_MMAP_THRESHOLD_": "65536"} if options.dtype else {}
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | live)
        row = json.loads(found.stdout)
        print(row, flush=True)
        record(row, options.device)


def compare(names: list[str], commit: str, rounds: int) -> None:
    """Write how many of an older commit's CPU seconds each pruner takes that both have."""
    rows = []
    with tree_of(commit) as folder:
        sides = {"before": folder, "now": Path(__file__).parents[1]}
        there = [name for name in names if (folder / "lmms_kvtp" / "pruners" / f"{name}.py").exists()]
        for name in there:
            found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            for side in list(sides) * rounds:
                tree = sides[side]
                command = [sys.executable, str(tree / "benchmarks" / "pruners.py"), name, "--row", "--repeats", "1"]
                env = os.environ | {"PYTHONPATH": str(tree)}
                ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env, cwd=tree)
                found[side].append(json.loads(ran.stdout))
            seconds = {side: [row["seconds"]["median"] for row in made] for side, made in found.items()}
            memory = {side: made[-1]["float32_extra_over_tokens"] for side, made in found.items()}
            ratios = [now / before for now, before in zip(seconds["now"], seconds["before"], strict=True)]
            rows.append({"pruner": name, "seconds": seconds, "ratio": spread(ratios), "memory": memory})
            print(rows[-1], flush=True)
    path = RESULTS / "pruners_before.json"
    held = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = sorted(({row["pruner"]: row for row in [*held, *rows]}).values(), key=lambda row: str(row["pruner"]))
    content = {"command": f"python benchmarks/pruners.py --before {commit}", "rounds": rounds, "rows": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")
    header = ["pruner", "seconds, before", "now", "ratio", "spread", "extra memory, before", "now"]
    cells = [
        [
            f"`{row['pruner']}`",
            *(f"{statistics.median(row['seconds'][side]):.2f}" for side in ("before", "now")),
            f"{row['ratio']['median']:.2f}",
            f"{row['ratio']['min']:.2f} to {row['ratio']['max']:.2f}",
            *(f"{row['memory'][side]:.2f}" for side in ("before", "now")),
        ]
        for row in rows
    ]
    write_between(PAGE, markdown(header, cells), "pruners before")


def record(row: dict[str, Any], device: str) -> None:
    """Put a row among those recorded, and write the CPU's table in docs/methods.md."""
    cuda, path = device == "cuda", RESULTS / f"pruners_{device}.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    known: dict[str, dict[str, Any]] = {found["pruner"]: found for found in before}
    known[row["pruner"]] = {**known.get(row["pruner"], {}), **row}
    rows = [known[name] for name in names_of("pruner") if name in known]
    result = {
        "command": f"python benchmarks/pruners.py --device {device}",
        "what": f"{FRAMES} x {CAPACITY} x {WIDTH}, keys {KEY_WIDTH}, keep_ratio {RATIO}, budgets of softmax, "
        + ("bfloat16" if cuda else "float32, 1 thread"),
        "machine": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {cpu_name()}",
        "torch": torch.__version__,
        "left_out": [name for name in names_of("pruner") if name not in known],
        "rows": rows,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    if not cuda:
        write_between(PAGE, table(rows), "pruner costs")


if __name__ == "__main__":
    main()
