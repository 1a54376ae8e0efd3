r"""Time to index 10-minute 1280x720 files: from their packets, and by decoding them once where these cannot be trusted.

    python benchmarks/indexing.py --before ../a-checkout-of-another-commit --output benchmarks/results/indexing.json

Each round times every file with this checkout and, if named, with the other one, in turns, in processes of their own.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import av
import long_videos
from av.bitstream import BitStreamFilterContext

KINDS = ("h264", "vp9", "av1")
CALLS = 5
"""Calls of each file in a process, of which the fastest counts."""
CLOCK = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from lmms_kvtp.video import index
def clock(path):
    getattr(index, "_decoded_stamps", index.read_index).__dict__.get("cache_clear", lambda: None)()
    begin = time.process_time()
    index.read_index(path)
    return time.process_time() - begin
print(json.dumps({path: min(clock(path) for _ in range(int(sys.argv[2]))) for path in sys.argv[3:]}))
"""


def copied(source: Path, path: Path) -> Path:
    """The same packets in another container."""
    if not path.exists():
        with av.open(str(source)) as old, av.open(str(path), "w") as new:
            stream = old.streams.video[0]
            copy, sieve = new.add_stream_from_template(stream), BitStreamFilterContext("h264_mp4toannexb", stream)
            for packet in old.demux(stream):
                for one in sieve.filter(packet) if packet.size else []:
                    one.stream = copy
                    new.mux(one)
    return path


def cpu_seconds(checkout: Path, paths: list[Path], calls: int) -> list[float]:
    """Time each file in a process of its own, with the code of one checkout."""
    command = [sys.executable, "-c", CLOCK, str(checkout.resolve()), str(calls), *map(str, paths)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [round(found[str(path)], 4) for path in paths]


def main() -> None:
    """Print CPU seconds of each file, a column for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    paths, here = [long_videos.make(kind) for kind in KINDS], Path(__file__).parents[1]
    taken: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for checkout, folder in (("before", given.before), ("now", here)):
            for kind, seconds in zip(KINDS, cpu_seconds(folder, paths, CALLS) if folder else [], strict=bool(folder)):
                taken.setdefault(f"{kind}, {checkout}", []).append(seconds)
    decoded = copied(paths[0], paths[0].with_suffix(".avi"))
    taken["h264 in avi, decoded once"] = cpu_seconds(here, [decoded], 1)
    taken["h264 in mpegts"] = cpu_seconds(here, [copied(paths[0], paths[0].with_suffix(".ts"))], CALLS)
    rows = {name: {"median": statistics.median(found), "cpu_seconds": found} for name, found in sorted(taken.items())}
    sys.stdout.write("".join(f"{name}: {row}\n" for name, row in rows.items()))
    if given.output:
        given.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
