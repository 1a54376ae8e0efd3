"""`lmms-kvtp bench e2e`: where the time of a run goes, and the least that it could take."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_kvtp.commands.arguments import at_least_one
from lmms_kvtp.presets import METHOD_HELP, method_settings
from lmms_kvtp.settings import pairs

if TYPE_CHECKING:
    from lmms_kvtp.cost.sample import SampleCost

QUESTION = "What happens in this video?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which finished run to read, or what to run."""
    targets = parser.add_subparsers(dest="target", required=True, metavar="WHAT")
    whole = targets.add_parser("e2e", help="seconds of each stage of a run, with the ideal beside them")
    whole.add_argument("journal", type=Path, nargs="*", help="journals of a finished run, one a rank, or their folder")
    whole.add_argument("--task", help="run this task first, by the harness")
    whole.add_argument("--videos", type=Path, metavar="FOLDER", help="ask one question about each video in it first")
    whole.add_argument("--question", default=QUESTION, help="with --videos (default %(default)r)")
    whole.add_argument("--model_args", default="pretrained=tiny", help="with --task or --videos (default %(default)s)")
    whole.add_argument("--limit", type=at_least_one, help="only the first so many questions or videos")
    whole.add_argument("--random-weights", metavar="MODEL", help="llava-video-7b, llava-video-72b, tiny or a folder")
    drawn = whole.add_argument_group("with --random-weights")
    drawn.add_argument("--frames", type=at_least_one, default=128, help="of the video (default %(default)s)")
    drawn.add_argument("--method", default="kvtp+prumerge", help=f"{METHOD_HELP} (default %(default)s)")
    drawn.add_argument("--keep-ratio", type=float, help="over the one of --method")
    drawn.add_argument("--encoder", default="so400m-384", help="so400m-384 (default), base-224 or shared")
    drawn.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    drawn.add_argument("--device", help="(default: the GPU if there is one)")
    drawn.add_argument("--rounds", type=at_least_one, default=3, help="medians count (default 3)")


def main(arguments: argparse.Namespace) -> int:
    """Run what was asked for, and write the table; OSError where a journal cannot be read.

    ValueError where not one source of answers is named, it has none, or they are a sweep's, whose seconds are shared.
    """
    sources = {
        "JOURNAL": (arguments.journal, _journals),
        "--task": (arguments.task, _task),
        "--videos": (arguments.videos, _videos),
        "--random-weights": (arguments.random_weights, _random),
    }
    given = [name for name, (value, _) in sources.items() if value]
    if len(given) != 1:
        raise ValueError(f"{' and '.join(given) or 'nothing'} given; name one of {', '.join(sources)}")
    sys.stdout.write(sources[given[0]][1](arguments))
    return 0


def _journals(arguments: argparse.Namespace) -> str:
    from lmms_kvtp.bench.waterfall import waterfall

    costs = _costs(arguments.journal)
    return f"{_counted(costs)}\n\n{waterfall(costs)}\n"


def _counted(costs: "Sequence[SampleCost]") -> str:
    """Count the answers; a whole run includes what loads on first use, and a reader is told how much."""
    cold = sum(cost.cold for cost in costs)
    return f"{len(costs)} answers" + (f", the warm-up included: {cold} on the first video of a process" if cold else "")


def _costs(journals: Sequence[Path]) -> "list[SampleCost]":
    from lmms_kvtp.run.journal import read

    costs = [answer.cost for path in journals for answer in read(path).answers.values()]
    if not costs:
        raise ValueError(f"{journals[0]} holds no answers; name the journal of a run that answered something")
    if any(cost.swept for cost in costs):
        raise ValueError(f"{journals[0]} is of a sweep, whose encoders run for all methods; time a run alone")
    return costs


def _task(arguments: argparse.Namespace) -> str:
    """Run the harness in a process of its own; then decode the videos once more, alone."""
    from lmms_kvtp.harness.preflight import media_of
    from lmms_kvtp.run.options import check_arguments, model_id

    check_arguments([arguments.model_args])
    model = model_id(pairs(arguments.model_args)) or "llava_video_kvtp"
    found = media_of(arguments.task, arguments.limit)
    with tempfile.TemporaryDirectory() as scratch:
        settings = f"{arguments.model_args},journal={scratch}"
        command = [sys.executable, "-m", "lmms_eval", "--model", model, "--model_args", settings]
        command += ["--tasks", arguments.task, "--verbosity", "ERROR"]
        command += ["--limit", str(arguments.limit)] if arguments.limit else []
        subprocess.run(command, check=False, stdout=sys.stderr)
        if not any(Path(scratch).glob("*.jsonl")):
            raise ValueError(f"the run of {arguments.task} left no answers; the harness's messages stand above")
        costs = _costs([Path(scratch)])
    return _beside_floors(costs, [path for media in found for path in media.present], arguments.model_args)


def _videos(arguments: argparse.Namespace) -> str:
    from lmms_kvtp.device import find_device
    from lmms_kvtp.run.answerer import Answerer, unrecorded
    from lmms_kvtp.run.asks import ask_about, read_question
    from lmms_kvtp.run.build import build
    from lmms_kvtp.run.options import parse_arguments
    from lmms_kvtp.types import GenerationOptions
    from lmms_kvtp.video.load import VIDEO_SUFFIXES, is_video

    paths = sorted(filter(is_video, arguments.videos.iterdir()))[: arguments.limit]
    if not paths:
        kinds = f"files ending in {', '.join(VIDEO_SUFFIXES)}, animated images and folders of frames"
        raise ValueError(f"{arguments.videos} holds no video; {kinds} count")
    settings = parse_arguments({"allow_toy": True, **pairs(arguments.model_args)})
    built = build(settings, find_device(settings.load.device), {})
    options = GenerationOptions(max_new_tokens=min(settings.run.max_new_tokens, 16))
    asks = {p: ask_about([str(p)], read_question(arguments.question, {}, p.name), options) for p in paths}
    answerer = Answerer([unrecorded(built.vlm, built.method, settings.run)], settings.frames)
    answers = [answer for _, _, answer in answerer.answer_all(asks)]
    failed = [answer.error for answer in answers if answer.error is not None]
    costs = [answer.cost for answer in answers if answer.error is None]
    if not costs:
        raise ValueError(f"all {len(failed)} videos of {arguments.videos} failed, the first with {failed[0]}")
    return _beside_floors(costs, [str(path) for path in paths], arguments.model_args)


def _beside_floors(costs: "list[SampleCost]", paths: Sequence[str], model_args: str) -> str:
    import torch

    from lmms_kvtp.bench.waterfall import decoder_alone, stage_floors, waterfall
    from lmms_kvtp.device import place
    from lmms_kvtp.forecast.machine import matrix_rate
    from lmms_kvtp.forecast.models import find_sizes
    from lmms_kvtp.run.options import parse_arguments
    from lmms_kvtp.video.load import load_video

    settings = parse_arguments(pairs(model_args))
    device, dtype = place(settings.load.device, settings.load.dtype)
    videos = (load_video(path, settings.frames) for path in paths)
    sizes = find_sizes(settings.run.pretrained, settings.load)
    rate, alone = matrix_rate(device, dtype), decoder_alone(videos, sizes.spec)
    table = waterfall(costs, stage_floors(costs, rate, alone))
    return f"{_counted(costs)}; matrix products: {_rate(rate, torch.get_num_threads())}\n\n{table}\n"


def _rate(rate: float, threads: int) -> str:
    return f"{rate / 1e9:.0f} GFLOP/s ({threads} threads)" if rate < 1e12 else f"{rate / 1e12:.0f} TFLOP/s"


def _random(arguments: argparse.Namespace) -> str:
    """Ask one question about random pixels; preprocessing is timed apart, on noise of 720p."""
    import torch

    from lmms_kvtp.bench.first_token import first_tokens, median_cost, preprocess_seconds, random_pixels
    from lmms_kvtp.bench.random_model import random_llava, random_parts
    from lmms_kvtp.bench.waterfall import stage_floors, waterfall
    from lmms_kvtp.files import writing
    from lmms_kvtp.forecast.machine import matrix_rate
    from lmms_kvtp.forecast.models import find_spec
    from lmms_kvtp.leaderboard.provenance import row_name
    from lmms_kvtp.method import KVTP, build_method
    from lmms_kvtp.vlms.load_options import LoadOptions

    spec = find_spec(arguments.random_weights)
    vlm = random_llava(spec, LoadOptions(dtype=arguments.dtype, device=arguments.device))
    with tempfile.TemporaryDirectory() as scratch:
        with writing(Path(scratch), "or set TMPDIR to another folder"):
            parts = random_parts(arguments.encoder, spec, Path(scratch), vlm)
        settings = method_settings(arguments.method, arguments.keep_ratio, spec.llm.layers)
        method = build_method({**settings, **parts.settings}, KVTP)
        video = random_pixels([spec.spec(arguments.frames), parts.pixel_spec], arguments.frames, vlm.device, vlm.dtype)
        runs = first_tokens(vlm, {"": method}, video, arguments.rounds)[""]
    cost, frame = median_cost(runs), preprocess_seconds(vlm.pixel_spec)
    rate = matrix_rate(vlm.device, vlm.dtype)
    row = row_name(arguments.method, method.describe())
    lines = [
        f"{spec.name} with random weights, {arguments.frames} frames, {row}, encoder {arguments.encoder}, "
        f"{vlm.dtype} on {vlm.device}; medians of {len(runs)}",
        f"matrix products: {_rate(rate, torch.get_num_threads())}",
        f"kept: {cost.tokens_kept} of {cost.tokens_before} tokens",
        "from pixels on the device; to make them of 720p takes "
        f"{1000 * frame:.1f} ms a frame, {arguments.frames * frame:.2f} s in all",
    ]
    return "\n".join([*lines, "", waterfall([cost], stage_floors([cost], rate, {})), ""])
