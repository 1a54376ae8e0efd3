"""Do damaged inputs of other kinds than videos end in what they hold, or in one documented error?

`python benchmarks/fuzz_inputs.py --kind index --count 20000` damages sound inputs at random, by a seed: values of their
JSON become others, of other types, of other sizes and hostile ones, or bytes change. Kinds: index lines of SparseKV-QA,
answers of scoring and refining models, checkpoints, trained predictors, `--model_args`, and results files, of which a
board is made beside a healthy run. A process of its own reads them; each input may take --seconds and --mib more
memory than the process had before. If one takes longer, the next process goes on behind it. Prints the counts, and
fails where anything but a documented error came out.
"""

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damage import HOSTILE, damaged, scrambled, text_of

TESTS = Path(__file__).parents[1] / "tests"
Try = Callable[[random.Random], None]
"""Damages one input and reads it; raises what reading raised."""


def index(folder: Path) -> Try:
    from helpers.skvqa_entries import entry

    from lmms_kvtp.predictor.examples import read_examples
    from lmms_kvtp.skvqa.entry import to_line
    from lmms_kvtp.skvqa.index import read_entries

    lines = [json.loads(to_line(entry())), json.loads(to_line(entry(edges=(), duration=0.0)))]
    path = folder / "videomme.jsonl"

    def read(dice: random.Random) -> None:
        path.write_bytes(text_of(damaged(dice.choice(lines), dice), dice))
        if dice.random() < 0.5:
            read_examples(path, folder)
        for one in read_entries(path):
            assert (folder / one.video).resolve().is_relative_to(folder.resolve()), one.video

    return read


def answers(folder: Path) -> Try:
    from lmms_kvtp.skvqa_build.ask import read_refined, read_scores

    bounds = [(0, 7), (8, 15), (16, 19)]
    sound = {"scores": {f"{first}-{last}": 3 for first, last in bounds}}

    def read(dice: random.Random) -> None:
        if dice.random() < 0.3:
            read_refined(text_of(damaged({"question": "What color is the star?"}, dice), dice).decode(errors="replace"))
            return
        text = text_of(damaged(sound, dice), dice).decode(errors="replace")
        if dice.random() < 0.3:
            text = scrambled(b"{[0,7]:3, [8,15]:5, [16,19]:0}", dice).decode(errors="replace")
        scores = read_scores(text, bounds)
        assert len(scores) == 3 and all(score in range(6) for score in scores), scores

    return read


def model_args(folder: Path) -> Try:
    from helpers.checkpoints import write_tiny

    from lmms_kvtp.run.options import check_arguments

    sound = f"pretrained={write_tiny(folder / 'model')},keep_ratio=0.2,pruner=prumerge,scorer=uniform,fps=1,seed=1"
    words = [
        *("pretrained", "keep_ratio", "pruner", "allocator.temperature", "newline", "max_frames_num", "resume", "fps"),
        *("video_seconds", "decode_ahead_mib", "chunk_size", "layer_pruning", "revision", "predictor", "frame_cache"),
    ]

    def read(dice: random.Random) -> None:
        given = sound.split(",")
        for _ in range(dice.choice((1, 2))):
            value = dice.choice(
                [v for v in HOSTILE if not isinstance(v, list | dict)] + ["a:b", "os:system", "~nobody1"]
            )
            if dice.random() < 0.3:
                given[dice.randrange(len(given))] = scrambled(dice.choice(given).encode(), dice).decode(
                    errors="replace"
                )
            else:
                given.append(f"{dice.choice(words)}={value}")
        check_arguments([",".join(given)])

    return read


def checkpoints(folder: Path) -> Try:
    from helpers.checkpoints import write_tiny

    from lmms_kvtp.vlms.base import load_vlm

    made = write_tiny(folder / "sound", shard_size=60_000, siglip=False)
    names = sorted(path.name for path in made.iterdir() if path.is_file())
    likely = [name for name in names if name.endswith(".json")] * 3 + names

    def read(dice: random.Random) -> None:
        there = folder / "damaged"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(made, there)
        path = there / dice.choice(likely)
        if path.suffix == ".json" and path.stat().st_size < 100_000:
            path.write_bytes(text_of(damaged(json.loads(path.read_bytes()), dice), dice))
        else:
            path.write_bytes(scrambled(path.read_bytes(), dice))
        try:
            load_vlm(str(there))
        except ValueError as error:
            assert str(there) in str(error), f"no name in: {error}"
            raise

    return read


def predictors(folder: Path) -> Try:
    from lmms_kvtp.encoders.parts.predictor import FUSION, find_predictor
    from lmms_kvtp.encoders.parts.text_side import load_text_side
    from lmms_kvtp.encoders.parts.tower_head import load_tower_head
    from lmms_kvtp.scorers.parts.fusion import FusionHead
    from lmms_kvtp.shipped import shipped_folder

    made = [shipped_folder("predictors") / name for name in ("tiny_anchors", "tiny_shared_anchors")]

    def load(there: Path) -> None:
        found = find_predictor(str(there))
        json.dumps(found.describe())
        assert not found.has_seen("skvqa_synth"), found.evaluation
        if found.form == "shared":
            load_tower_head(there)
        load_text_side(there)
        FusionHead.load(*(there / name for name in FUSION))

    def read(dice: random.Random) -> None:
        sound, there = dice.choice(made), folder / "damaged"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(sound, there)
        names = sorted(path.name for path in there.iterdir() if path.name != "sha256.json")
        path = there / dice.choice([name for name in names if name.endswith(".json")] * 3 + names)
        if path.suffix == ".json" and path.name != "tokenizer.json":
            path.write_bytes(text_of(damaged(json.loads(path.read_bytes()), dice), dice))
        else:
            path.write_bytes(scrambled(path.read_bytes(), dice))
        try:
            load(there)
        except ValueError as error:
            assert str(there) in str(error), f"no name in: {error}"
            raise

    for sound in made:  # imports take seconds
        load(sound)
    return read


def results(folder: Path) -> Try:
    from helpers.harness_files import BASE, OURS, read_board, samples, write_base, write_run

    from lmms_kvtp.leaderboard.page import to_html
    from lmms_kvtp.leaderboard.provenance import reported
    from lmms_kvtp.leaderboard.results import to_csv, to_json
    from lmms_kvtp.leaderboard.tables import to_latex, to_markdown
    from lmms_kvtp.leaderboard.verdicts import judge

    write_base(folder / "runs" / "full", BASE)
    write_run(folder / "runs" / "random", samples(OURS))
    [file] = (folder / "runs" / "random").rglob("*_results.json")
    [lines] = (folder / "runs" / "random").rglob("*_samples_*.jsonl")
    sound, rows = json.loads(file.read_bytes()), [json.loads(line) for line in lines.read_text().splitlines()]

    def read(dice: random.Random) -> None:
        write_run(folder / "runs" / "random", samples(OURS))
        if dice.random() < 0.7:
            file.write_bytes(text_of(damaged(sound, dice), dice))
        else:
            changed = [damaged(row, dice) if dice.random() < 0.3 else row for row in rows]
            lines.write_bytes(b"\n".join(text_of(row, dice) for row in changed) + b"\n")
        board = read_board(folder / "runs")
        assert "all tokens" in [row.name for row in board.rows], "the healthy run is lost"
        assert len(board.rows) + len(board.left) >= 2, "a run vanished"
        judged = judge(board)
        for text in (to_markdown(board, judged), to_latex(board), to_csv(board), to_json(board)):
            text.encode()
        if dice.random() < 0.1:  # plots take a second
            to_html(board, reported(), judged).encode()

    return read


KINDS: dict[str, Callable[[Path], Try]] = {
    function.__name__: function for function in (index, answers, model_args, checkpoints, predictors, results)
}


def documented(error: Exception) -> bool:
    """Whether callers are told to expect it: a ValueError, a LookupError that is no bare index or key, in one line."""
    kinds = (ValueError, LookupError)
    bare = (KeyError, IndexError, UnicodeError, json.JSONDecodeError)
    return isinstance(error, kinds) and type(error) not in bare and str(error).strip() != ""


def serve(kind: str, folder: Path, first: int, count: int, seed: int, seconds: float, mib: int) -> None:
    """Try the inputs from number `first` on, and print a line of JSON for each; one that takes too long ends us."""
    import logging
    import warnings

    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    os.environ["HF_HUB_OFFLINE"] = "1"  # names that are tried are nobody's
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    logging.disable()
    warnings.simplefilter("ignore")
    read = KINDS[kind](folder)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, count):
        begin, said = time.perf_counter(), ""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            read(random.Random(f"{seed} {kind} {number}"))
            result = "read"
        except Exception as error:  # what the benchmark looks for
            said = f"{type(error).__name__}: {error}"[:300]
            result = "documented error" if documented(error) else said[:120]
        signal.setitimer(signal.ITIMER_REAL, 0)
        told.write(json.dumps({"number": number, "result": result, "seconds": time.perf_counter() - begin}) + "\n")
        told.flush()


def run(kind: str, count: int, seed: int, seconds: float, mib: int) -> list[dict[str, Any]]:
    """Try `count` inputs in processes of their own."""
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        before = len(rows)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--serve", folder, "--kind", kind, "--first", str(before)]
            command += ["--count", str(count), "--seed", str(seed), "--seconds", str(seconds), "--mib", str(mib)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                told, wrong = process.communicate()
        rows += [json.loads(line) for line in told.splitlines()]
        if process.returncode != -signal.SIGALRM and len(rows) == before:
            raise RuntimeError(f"no input was tried: {wrong[-2000:]}")
        if len(rows) < count:
            result = "too slow" if process.returncode == -signal.SIGALRM else f"crash ({process.returncode})"
            rows.append({"number": len(rows), "result": result, "seconds": seconds})
    return rows


def main() -> int:
    """Print the counts; 1 where anything but a documented error came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), help="(default: all)")
    parser.add_argument("--count", type=int, default=1000, help="of each kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="limit for one input (default %(default)s)")
    parser.add_argument("--mib", type=int, default=1024, help="memory for one input (default %(default)s)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.kind, given.serve, given.first, given.count, given.seed, given.seconds, given.mib)
        return 0
    figures: dict[str, Any] = {}
    for kind in [given.kind] if given.kind else KINDS:
        rows = run(kind, given.count, given.seed, given.seconds, given.mib)
        wrong = [row for row in rows if row["result"] not in ("read", "documented error")]
        figures[kind] = {
            "command": f"python benchmarks/fuzz_inputs.py --kind {kind} --count {given.count} --seed {given.seed}",
            "results": dict(Counter(row["result"] for row in rows)),
            "slowest_seconds": round(max(row["seconds"] for row in rows), 2),
            "wrong": [row["number"] for row in itertools.islice(wrong, 20)],
        }
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    return int(any(set(found["results"]) - {"read", "documented error"} for found in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
