"""`lmms-kvtp check`: missing media, disk, memory and hours of a run, before any weights load."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_kvtp.commands.arguments import at_least_one
from lmms_kvtp.commands.cells import only
from lmms_kvtp.files import write_whole
from lmms_kvtp.presets import METHOD_HELP
from lmms_kvtp.rendering import first_few, markdown
from lmms_kvtp.settings import pairs

if TYPE_CHECKING:
    from lmms_kvtp.forecast.forecast import Forecast
    from lmms_kvtp.forecast.models import Sizes
    from lmms_kvtp.harness.preflight import Media
    from lmms_kvtp.method import Method
    from lmms_kvtp.run.options import Arguments

SHOWN = 20
"""Missing files that are listed."""
GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the run that is to be checked."""
    parser.add_argument("--tasks", required=True, help="comma-separated, as of lmms-eval")
    parser.add_argument("--model_args", default="", help="as of lmms-eval")
    parser.add_argument("--method", help=f"{METHOD_HELP} (default: what --model_args say)")
    parser.add_argument("--keep-ratio", type=float, help="with --method: share of vision tokens kept (default 0.2)")
    parser.add_argument("--include_path", help="folder with tasks of your own, as of lmms-eval")
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions of each task")
    parser.add_argument("--output_path", type=Path, default=Path(), help="where results will go (default: here)")
    parser.add_argument("--missing", type=Path, help="write the paths of all missing files here")


def main(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 where anything is missing that a task needs, or memory or disk does not suffice."""
    from loguru import logger

    from lmms_kvtp.forecast.models import find_sizes
    from lmms_kvtp.harness.preflight import examine
    from lmms_kvtp.method import KVTP, build_method
    from lmms_kvtp.run.options import parse_arguments
    from lmms_kvtp.vlms.checkpoint.load import weight_files

    logger.disable("lmms_eval")  # it reports every file of other tasks that is none
    chosen = only(arguments.method, arguments.keep_ratio, arguments.model_args) if arguments.method else None
    settings = parse_arguments(pairs(arguments.model_args if chosen is None else chosen))
    spec = find_sizes(settings.run.pretrained, options=settings.load)
    if (folder := Path(settings.run.pretrained).expanduser()).is_dir():
        weight_files(folder)
    method = build_method(settings.method, {**KVTP, "encoder.pretrained": spec.default_encoder})
    found, problems = examine(arguments.tasks, arguments.limit, arguments.include_path)
    missing = list(dict.fromkeys(path for media in found for path in media.missing))
    rows = [[m.task, str(m.questions), str(len(m.present)), str(len(m.missing))] for m in found]
    sys.stdout.write("".join(f"problem: {line}\n" for line in problems) + "\n" * bool(problems))
    if not found:
        return 1
    sys.stdout.write(markdown(["task", "questions", "videos there", "missing"], rows) + "\n\n")
    if missing:
        shown = first_few([f"missing: {path}" for path in missing], SHOWN, "\n")
        sys.stdout.write(shown + ("; --missing FILE writes them all\n" if len(missing) > SHOWN else "\n"))
    if arguments.missing:
        write_whole(arguments.missing, "".join(f"{path}\n" for path in missing))
    enough = _machine(spec, settings, method, found, arguments.output_path)
    return int(bool(missing or problems) or not enough)


def _machine(spec: "Sizes", settings: "Arguments", method: "Method", found: Sequence["Media"], output: Path) -> bool:
    """Print memory, disk and hours, and tell whether they suffice."""
    from lmms_kvtp.device import place
    from lmms_kvtp.forecast.forecast import forecast
    from lmms_kvtp.forecast.machine import device_memory, free_disk, hours, matrix_rate, memory
    from lmms_kvtp.forecast.models import find_encoder, pool_of

    device, dtype = place(settings.load.device, settings.load.dtype)
    answers = max([media.output_tokens or settings.run.max_new_tokens for media in found], default=1)
    frames = settings.frames.max_frames_num
    pool = pool_of(spec, settings.load.mm_spatial_pool_mode, frames)
    expected = forecast(spec, method, frames, pool, output_tokens=answers)
    encoder = find_encoder(str(getattr(method.encoder, "pretrained", ""))) if method.needs else None
    needed = memory(spec, pool, expected.cost, dtype.itemsize, encoder.parameters if encoder else 0)
    there, free = device_memory(device), free_disk(output)
    questions, videos = sum(m.questions for m in found), sum(len(m.present) for m in found)
    results = questions * 4000  # a sample with its cost, and the journal's line
    took = hours(expected.cost, videos, questions, matrix_rate(device, dtype), _reading(found, settings))
    lines = [
        _lengths(expected, spec),
        f"memory: about {needed.total / GIB:.1f} GiB (weights {needed.weights / GIB:.1f}, encoder "
        f"{needed.encoder / GIB:.1f}, cache {needed.cache / GIB:.1f}, tokens {needed.visual / GIB:.1f}); "
        f"{there / GIB:.1f} GiB free on {device}{'' if needed.total <= there else ': NOT ENOUGH'}",
        f"disk: about {results / GIB:.2f} GiB of results; {free / GIB:.1f} GiB free"
        f"{'' if results <= free else ': NOT ENOUGH'}",
        f"time: about {took:.1f} hours at the most, if every video has {frames} frames; "
        "a rough figure from operations and this device's matrix products",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return needed.total <= there and results <= free and expected.cost.prompt_tokens <= spec.limit


def _lengths(expected: "Forecast", spec: "Sizes") -> str:
    cost, limit = expected.cost, spec.limit
    fits = cost.prompt_tokens <= limit
    said = "" if fits else f": MORE THAN THE LIMIT OF {limit}; lower keep_ratio or max_frames_num"
    return (
        f"prompt: {cost.tokens_kept} of {cost.tokens_before} vision tokens, {cost.prompt_tokens} positions{said}; "
        f"{cost.flops_total / 1e12:.3g} TFLOP for a question alone"
    )


def _reading(found: Sequence["Media"], settings: "Arguments") -> float:
    """Time the first video that can be read, in seconds."""
    from lmms_kvtp.video.frames import VideoError
    from lmms_kvtp.video.load import load_video

    for path in [path for media in found for path in media.present][:3]:
        begin = time.perf_counter()
        try:
            for _ in load_video(path, settings.frames).chunks():
                pass
        except VideoError:
            continue
        return time.perf_counter() - begin
    return 0.0
