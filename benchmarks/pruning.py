"""CPU time and peak memory of PruMerge and ToMe against loops over frames and tokens, in one process.

Run `OMP_NUM_THREADS=1 nice python benchmarks/pruning.py`; it writes benchmarks/results/pruning.json.
"""

import json
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch
from loops import prumerge, tome_paper, tome_release

from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.allocators.uniform import EqualBudgets
from lmms_kvtp.pruners.prumerge import PruMerge
from lmms_kvtp.pruners.tome import ToMe
from lmms_kvtp.types import FrameFeatures, FrameTokens

FRAMES, GRID, WIDTH, KEY_WIDTH, RATIO, REPEATS = 128, (13, 13), 3584, 1152, 0.2, 5
CAPACITY = GRID[0] * GRID[1]
TARGETS = {"prumerge": 3.0, "tome_release": 8.0, "tome_paper": 8.0}
PRUNERS = {"prumerge": PruMerge(), "tome_release": ToMe(variant="release"), "tome_paper": ToMe()}


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """The files of a commit of this repository, in a folder that goes afterwards."""
    root = Path(__file__).parents[1]
    archive = subprocess.run(["git", "archive", commit], cwd=root, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def video() -> tuple[FrameTokens, FrameFeatures]:
    generator = torch.Generator().manual_seed(0)
    features = FrameFeatures(
        times=torch.arange(FRAMES).float(),
        probe_attention=torch.rand(FRAMES, CAPACITY, generator=generator) / CAPACITY,
        keys=torch.randn(FRAMES, CAPACITY, KEY_WIDTH, generator=generator),
    )
    return FrameTokens(torch.randn(FRAMES, CAPACITY, WIDTH, generator=generator), GRID), features


def budgets(allocator: str) -> torch.Tensor:
    relevance = torch.randn(FRAMES, generator=torch.Generator().manual_seed(1)) * 2.5
    parts = {"uniform": EqualBudgets(), "softmax": Softmax()}
    return parts[allocator].allocate(relevance, int(RATIO * FRAMES * CAPACITY), CAPACITY)


def loop(name: str, tokens: FrameTokens, features: FrameFeatures, wanted: list[int]) -> list[torch.Tensor]:
    if name == "prumerge":
        return prumerge(tokens.embeds, features.probe_attention, features.keys, wanted)
    return (tome_paper if name == "tome_paper" else tome_release)(tokens.embeds, features.keys, wanted)


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(name: str, allocator: str) -> dict[str, object]:
    """Interleave both versions; the ratio is that of the medians."""
    tokens, features = video()
    wanted = budgets(allocator)
    ours, loops = [], []
    for _ in range(REPEATS):
        ours.append(cpu_seconds(lambda: PRUNERS[name].prune(tokens, features, wanted)))
        loops.append(cpu_seconds(lambda: loop(name, tokens, features, wanted.tolist())))
    packed = PRUNERS[name].prune(tokens, features, wanted)
    rows, *kept = loop(name, tokens, features, wanted.tolist())
    patches = torch.cat([patch[:, 0] if patch.dim() == 2 else patch for patch in kept])
    return {
        "pruner": name,
        "allocator": allocator,
        "kept_tokens": len(packed.embeds),
        "same_indices": torch.equal(packed.patch, patches),
        "largest_difference": float((packed.embeds - rows).abs().max()),
        "cpu_seconds_ours": spread(ours),
        "cpu_seconds_loops": spread(loops),
        "ratio_of_medians": round(statistics.median(loops) / statistics.median(ours), 1),
        "target": TARGETS[name],
        "extra_bytes_over_tokens": round(extra_bytes(name, allocator) / (FRAMES * CAPACITY * WIDTH * 4), 3),
    }


def spread(seconds: list[float]) -> dict[str, float]:
    return {
        "min": round(min(seconds), 4),
        "median": round(statistics.median(seconds), 4),
        "max": round(max(seconds), 4),
    }


def extra_bytes(name: str, allocator: str) -> int:
    """Growth of the peak resident set over one call, in a process of its own; the output counts."""
    run = subprocess.run(
        [sys.executable, __file__, "peak", name, allocator], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def peak(name: str, allocator: str) -> None:
    tokens, features = video()
    wanted = budgets(allocator)
    small = FrameTokens(tokens.embeds[:2], GRID)
    PRUNERS[name].prune(small, features.select(torch.arange(2)), wanted[:2])  # libraries set up their buffers
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    PRUNERS[name].prune(tokens, features, wanted)
    print(status("VmHWM") - before)


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["peak"]:
        peak(*sys.argv[2:])
        return
    rows = [compare(name, allocator) for name in PRUNERS for allocator in ("uniform", "softmax")]
    result = {
        "what": f"{FRAMES} x {CAPACITY} x {WIDTH}, keys {KEY_WIDTH}, float32, 1 thread, keep_ratio {RATIO}",
        "repeats": REPEATS,
        "machine": f"{platform.machine()}, {cpu_name()}, torch {torch.__version__}",
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "pruning.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
