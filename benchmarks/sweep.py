"""Time of a sweep over six methods against one over a single method, on the embedded benchmark.

    OMP_NUM_THREADS=1 python benchmarks/sweep.py --pairs 2

Each side is the whole command, in new processes and a new folder, with loading and scoring; in turns. Every pair is
added to benchmarks/results/sweep.json, so that a long measurement can be made in pieces. The one method is the dearest
of the six.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "sweep.json"
SIX = ("random", "grid", "kvtp+random", "kvtp+prumerge", "kvtp+tome", "hard+random")
ONE = ("kvtp+prumerge",)
LIMIT = 2.0


def main() -> None:
    """Measure pairs, add them to the results, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only the first so many questions, to try the script; not stored")
    arguments = parser.parse_args()
    stored = json.loads(RESULTS.read_text())["pairs"] if RESULTS.is_file() else []
    pairs = [] if arguments.limit else stored
    for _ in range(arguments.pairs):
        order = (ONE, SIX) if len(pairs) % 2 else (SIX, ONE)
        taken = {methods: sweep(methods, arguments.limit) for methods in order}
        pairs.append({"one": taken[ONE], "six": taken[SIX], "load_average": os.getloadavg()[0]})
    report = {"six": SIX, "one": ONE, "limit": LIMIT, "cpus": os.cpu_count(), **summary(pairs), "pairs": pairs}
    if not arguments.limit:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


def sweep(methods: tuple[str, ...], limit: int | None) -> dict[str, float]:
    """Seconds of one command, on the clock and of CPU."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lmms_kvtp", "sweep", "--methods", ",".join(methods), "--out", folder]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command + (["--limit", str(limit)] if limit else []), check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def summary(pairs: list[dict[str, dict[str, float]]]) -> dict[str, float | list[float]]:
    """Median ratio of each clock, and all of them."""
    found: dict[str, float | list[float]] = {}
    for clock in ("wall", "cpu"):
        ratios = [pair["six"][clock] / pair["one"][clock] for pair in pairs]
        found |= {f"{clock}_ratio": statistics.median(ratios), f"{clock}_ratios": ratios}
    return found


if __name__ == "__main__":
    main()
