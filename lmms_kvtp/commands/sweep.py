"""`lmms-kvtp sweep`: many methods and ratios in one pass over the videos, each cell in the harness's own format."""

import argparse
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lmms_kvtp.commands.arguments import at_least_one, ratios
from lmms_kvtp.commands.cells import Variant, add_methods, arguments_of, beforehand, plan, with_verdicts
from lmms_kvtp.files import loading, read_json, write_json, write_whole
from lmms_kvtp.leaderboard.runs import RESULTS, Run, read_runs
from lmms_kvtp.settings import pairs
from lmms_kvtp.shipped import TOY

LOG = "harness.log"
"""File in a sweep's folder with messages and tables of the harness and of libraries; a bar is shown in their place."""
LOCK, FINISHED = ".lock", "finished.json"
GRACE = 40
"""Seconds that the harness may take to end: torchrun gives the processes that it started 30."""
CAUSE = re.compile(r"(?!tenacity)(\w+\.)*\w*Error\b")
LOW = 2**16
"""Bytes below which a disk is full."""
TORCHRUN = r"(TORCHELASTIC_.*|(GROUP_|ROLE_|LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT))$"
"""Variables of a process that torchrun started."""
PROGRESS = re.compile(r"Answering: [^\r\n]*?(\d+)/(\d+) \[")
"""Answers made and to be made, as the bar of the harness's process says."""
log = logging.getLogger(__name__)


class SweepError(ValueError):
    """The pass over the videos broke off."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to run, on what, and where results go."""
    add_methods(parser)
    parser.add_argument("--ratios", type=ratios, default="0.2", help="shares of vision tokens kept (default 0.2)")
    parser.add_argument("--tasks", default="skvqa_synth_quick", help="as of lmms-eval (default %(default)s)")
    parser.add_argument("--include_path", help="folder with tasks of your own, as of lmms-eval")
    parser.add_argument("--model_args", default="pretrained=tiny", help="for all cells (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="one folder per cell; a killed sweep goes on there")
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions of each task")
    parser.add_argument("--margin", type=float, help="points within which a board may call two rows equal")
    parser.add_argument("--contrasts", default="", help="`A vs B,C vs full`: what a board compares, not all rows")


def main(arguments: argparse.Namespace) -> int:
    """Sweep, and print the table of each task."""
    methods = [name for name in (arguments.methods or "").split(",") if name] + arguments.method
    if not methods:
        raise ValueError("no method is named; give --methods full,random or --method kvtp+tome,allocator.floor=0:1")
    if int(os.environ.get("RANK", 0)) > 0:
        return 0  # under torchrun the first process starts the others anew, below the harness
    cells = plan(methods, arguments.ratios, arguments.model_args)
    cells = with_verdicts(cells, arguments.margin, arguments.contrasts)
    sys.stdout.write("".join(f"! {line}\n" for line in beforehand(cells, arguments.margin)))
    limits = {"limit": arguments.limit, "include_path": arguments.include_path}
    runs = sweep(cells, arguments.tasks, arguments.model_args, arguments.out, **limits)
    sys.stdout.write(tables(runs))
    return 0


def tables(runs: Sequence[Run]) -> str:
    """Write the table of each task, and below it what its reader must know."""
    from lmms_kvtp.leaderboard.provenance import record_of
    from lmms_kvtp.leaderboard.tables import problems, summary

    text = ""
    for task in sorted({run.task for run in runs}):
        of_task = [run for run in runs if run.task == task]
        notes = "".join(f"! {line}\n" for line in problems(of_task))
        text += f"\n{task}\n{summary(of_task)}\n{notes}"
    return text + f"! {TOY}\n" * any(record_of(run.config).get("toy") for run in runs)


def sweep(
    cells: Sequence[Variant],
    tasks: str,
    common: str,
    out: Path,
    limit: int | None = None,
    include_path: str | None = None,
) -> list[Run]:
    """Answer for all cells in one pass, then let the harness score each from its journal, behind a bar.

    Args:
        cells: what to compare.
        tasks: comma-separated, as of lmms-eval.
        common: `--model_args` of all cells; the unpruned model takes none of them that choose a method.
        out: one folder per cell. Answers that are there already are not made again, and where all of them are scored
            and nothing has changed, the harness is not started.
        limit: of questions per task.
        include_path: folder with tasks of the user's own.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the harness has ended, and the message says how to go on.
        LookupError: no such task, component or argument.
        ValueError: a value that does not fit, or no checkpoint.
        SweepError: another sweep is at work there, or the pass over the videos broke off; what was answered stays, and
            the same command goes on there.
        FileNotFoundError: a cell left no results; the harness's messages stand in `out/harness.log`.
    """
    from lmms_kvtp.run.options import model_id

    check(cells, tasks, common, include_path)
    model = model_id(pairs(common)) or "llava_video_kvtp"
    out.mkdir(parents=True, exist_ok=True)
    making, reading = [], []
    both = {"model": model, "tasks": tasks, "timezone": "UTC", "limit": limit, "include_path": include_path}
    both = {name: value for name, value in both.items() if value}
    with _alone(out) as lock:
        for cell, given in zip(cells, [arguments_of(common, cell) for cell in cells], strict=True):
            journal = out / cell.folder / "journal"
            resumed = f",resume={journal}" if any(journal.glob("*.jsonl")) else ""
            making.append(f"{given},journal={journal}{resumed}")
            step = {"model_args": f"{given},journal=none,resume={journal}", "output_path": str(out / cell.folder)}
            reading.append({**both, **step, "log_samples": True})
        _keep_verdicts(out / "cells.json", making)
        depends, finished = _depends_on(reading, common), out / FINISHED
        scored = all(any((out / cell.folder).rglob(f"*{RESULTS}")) for cell in cells)
        if scored and finished.is_file() and finished.read_bytes() == depends.encode():
            log.info("all of this is finished; the harness is asked again if you remove %s", finished)
        else:
            finished.unlink(missing_ok=True)
            write_json(out / "cells.json", making)
            together = "kvtp_sweep" if model == "llava_video_kvtp" else f"{model}_sweep"
            first = {**both, "model": together, "model_args": f"cells={out / 'cells.json'}"}
            _run(out, first, reading, lock)
            write_whole(finished, depends)
        return [run for cell in cells for run in read_runs(out / cell.folder, cell.name)]


def _keep_verdicts(file: Path, making: Sequence[str]) -> None:
    """Refuse another margin or other contrasts than a sweep began with: its answers may have been looked at."""
    with loading(f"no list of cells in {file}; remove it to go on, whatever margin the sweep began with"):
        begun = [pairs(text) for text in read_json(file, list)] if file.is_file() else []
    for now in map(pairs, making):
        for before in [cell for cell in begun if cell["journal"] == now["journal"]]:
            if any(before.get(name) != now.get(name) for name in ("margin", "against")):
                told = f"margin={before.get('margin', 'none')}, against={before.get('against', 'all tokens')}"
                raise ValueError(f"{now['journal']} was begun with {told}; go on with these, or choose another --out")


def check(cells: Sequence[Variant], tasks: str, common: str, include_path: str | None = None) -> None:
    """Refuse what the harness would refuse with many lines, half a minute later; raises as `sweep` does."""
    import lmms_kvtp.tasks
    from lmms_kvtp.harness.plugin import check_plugins
    from lmms_kvtp.run.options import check_arguments

    check_arguments([arguments_of(common, cell) for cell in cells])
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if nodes > 1:
        raise SweepError(f"a sweep runs on one machine, not on {nodes}; start one on each, for other methods")
    own = {file.stem for file in Path(lmms_kvtp.tasks.__path__[0]).rglob("*.yaml")}
    if set(tasks.split(",")) <= own:
        check_plugins()
    else:  # the harness reads 1,900 files to know its own
        from lmms_kvtp.harness.preflight import check_tasks

        check_tasks(tasks, include_path)


def _depends_on(steps: Sequence[Mapping[str, Any]], common: str) -> str:
    """Hash what results depend on, but for the data sets and their videos."""
    import lmms_kvtp.model_wrappers
    import lmms_kvtp.tasks
    from lmms_kvtp.files import content_key, fingerprint
    from lmms_kvtp.run.options import parse_arguments
    from lmms_kvtp.run.source import of_settings, of_source, of_weights
    from lmms_kvtp.vlms.checkpoint.load import find_folder

    model, cells = parse_arguments(pairs(common)), [pairs(step["model_args"]) for step in steps]
    values = {value for cell in cells for name, value in cell.items() if name not in ("journal", "resume")}
    folders = [*lmms_kvtp.__path__[:1], *lmms_kvtp.tasks.__path__, *lmms_kvtp.model_wrappers.__path__]
    folders += [folder for folder in [str(steps[0].get("include_path", ""))] if Path(folder).is_dir() and folder]
    code = [fingerprint(Path(folder), counts=lambda file: file.suffix in (".py", ".yaml")) for folder in folders]
    weights = of_weights(find_folder(model.run.pretrained, model.load.revision)), of_settings(sorted(values), True)
    versions = [version(name) for name in ("torch", "transformers", "lmms_eval")]
    foreign = of_source(value.partition(":")[0] for value in values if ":" in value)  # package.module:Class
    return content_key(steps, weights, code, foreign, versions)


@contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Hold the folder's lock, which ends with this process and its harness; SweepError where another holds it."""
    with (out / LOCK).open("a+") as file:
        with suppress(ImportError):  # a system without such locks
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = f"another sweep (process {file.read()}) is at work in {out}"
                raise SweepError(f"{owner}; wait until it ends, or choose another --out") from None
        file.truncate(0)
        os.write(file.fileno(), str(os.getpid()).encode())
        yield file.fileno()


def _run(out: Path, first: Mapping[str, Any], reading: Sequence[Mapping[str, Any]], lock: int) -> None:
    """Answer, then score, behind one bar; raises as `sweep` does."""
    log.info("messages and tables of the harness: %s", out / LOG)
    before = _answers(out)
    with tqdm(desc="answering", unit=" answers") as bar:
        try:
            told = _harness(out / "sweep.yaml", [first], lock, bar)
            done, wanted = (PROGRESS.findall(told) or [("0", "0")])[-1]
            if int(done) < int(wanted) or _answers(out) == before:
                made = f"{done} of {wanted} answers" if int(done) else "no answers"
                causes = [line.strip() for line in told.splitlines() if CAUSE.match(line)]
                if shutil.disk_usage(out).free < LOW:  # which cuts the messages off, too
                    causes = ["no space is left there; free some, and start the same command again"]
                why = "; ".join([f"the harness's messages stand in {out / LOG}", *causes[-1:]])
                raise SweepError(f"the pass over the videos made {made} in {out}; {why}")
            bar.set_description("scoring")
            _harness(out / "cells.yaml", reading, lock)
        except KeyboardInterrupt:
            made = f"{len({*_answers(out)})} answers are in {out}"
            raise KeyboardInterrupt(f"{made}; the same command goes on there") from None


def _answers(out: Path) -> list[tuple[Path, bytes]]:
    """List the whole lines of all journals but their first ones; an answer that was taken over stands there again."""
    files = sorted(out.glob("*/journal/*.jsonl"))
    return [(file.parent, line) for file in files for line in file.read_bytes().split(b"\n")[1:-1]]


def _harness(file: Path, steps: Sequence[Mapping[str, object]], lock: int, bar: "tqdm[Any] | None" = None) -> str:
    """Run the harness, with a bar in as many processes as torchrun started, and end it with this one; its messages."""
    write_json(file, steps)  # JSON is YAML
    count = os.environ.get("WORLD_SIZE", "1") if bar is not None else "1"
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", count, "-m"] if count != "1" else []
    command = [sys.executable, "-m", *launch, "lmms_eval", "--config", str(file), "--verbosity", "ERROR"]
    own = {name: value for name, value in os.environ.items() if not re.match(TORCHRUN, name)} | {"TZ": "UTC"}
    with (file.parent / LOG).open("a+b") as told:
        start, before, stopped = told.seek(0, os.SEEK_END), signal.getsignal(signal.SIGTERM), list[int]()
        with suppress(ValueError):  # another thread than the main one, which alone gets signals
            signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))  # an error in Popen loses its child
        process = subprocess.Popen(command, stdout=told, stderr=told, env=own, pass_fds=(lock,))
        try:
            os.write(lock, f", harness {process.pid}".encode())  # which a killed sweep leaves at work
            while process.poll() is None or stopped:
                if stopped:
                    raise KeyboardInterrupt
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.5)
                told.seek(max(start, told.seek(0, os.SEEK_END) - 4096))
                seen = PROGRESS.findall(told.read().decode(errors="replace"))
                if bar is not None and seen:
                    done, bar.total = map(int, seen[-1])
                    bar.update(done - bar.n)
        finally:
            process.terminate()
            try:
                process.wait(GRACE)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                log.warning("the harness (process %s) did not end when it was told to, and was killed", process.pid)
            process.kill()
            process.wait()
            with suppress(ValueError):
                signal.signal(signal.SIGTERM, before)
        told.seek(start)
        return told.read().decode(errors="replace")
