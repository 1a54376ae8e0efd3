"""`lmms-kvtp skvqa build`, the construction of section 3 of the paper, and `skvqa import`, the paper's own labels."""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from lmms_kvtp.commands.arguments import add_numbers, at_least_one
from lmms_kvtp.rendering import first_few
from lmms_kvtp.skvqa.entry import ALPHA, CLIP_SIZE, DATASETS, TEMPERATURE
from lmms_kvtp.skvqa.layouts import LAYOUTS, expected_layout, missing_message, read_questions
from lmms_kvtp.skvqa.stats import BETA, MIN_FRAMES, Criteria, statistics_table
from lmms_kvtp.skvqa_build.store import Store

log = logging.getLogger(__name__)

CAPTIONER = "lmms-lab/LLaVA-Video-7B-Qwen2"
SPELLING = """captioner: a checkpoint that --model_args pretrained= takes (folder or hub id), endpoint:MODEL, or none.
scorer: captioner (from all captions of a video in one prompt), endpoint:MODEL, text or text:CHECKPOINT
(sentence-transformers on captions), siglip or siglip:CHECKPOINT (frames, no captions).
refiner: rule or endpoint:MODEL."""


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to build, from what, with which models."""
    from lmms_kvtp.commands.endpoints import add_endpoint_arguments

    layouts = "\n".join(expected_layout(name) for name in LAYOUTS)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{SPELLING}\n\n{layouts}"
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--annotations", type=Path, required=True, help="file or folder, see below")
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="a folder, or archives to unpack")
    parser.add_argument("--out", type=Path, required=True, help="folder of the index; a killed build goes on there")
    parser.add_argument("--store", type=Path, help="file of finished calls (default: OUT/calls.sqlite)")
    parser.add_argument("--captioner", default=CAPTIONER, help="see below (default %(default)s)")
    parser.add_argument("--scorer", default="captioner", help="see below (default %(default)s)")
    parser.add_argument("--one-by-one", action="store_true", help="score each caption alone, where no prompt holds all")
    parser.add_argument("--skip-missing", action="store_true", help="leave out questions whose video is missing")
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions, for a trial")
    numbers = [
        ("--max-frames-num", 128, "frames of a video at most"),
        ("--fps", 1.0, "frames per second of video, where they are not too many"),
        ("--clip-size", CLIP_SIZE, "frames of a clip"),
        ("--temperature", TEMPERATURE, "of the softmax over clips"),
        ("--alpha", ALPHA, "share of the tokens that the rates are of"),
        ("--beta", BETA, "least sparsity, for the statistics"),
        ("--min-frames", MIN_FRAMES, "least frames, for the statistics"),
    ]
    add_numbers(parser, numbers)
    add_endpoint_arguments(parser)


def build(arguments: argparse.Namespace) -> int:
    """Build; 1 where calls failed, 2 where nothing could be built."""
    from lmms_kvtp.commands.endpoints import choose_settings, prices_of, spent_so_far
    from lmms_kvtp.skvqa_build.build import build_index, save_index
    from lmms_kvtp.skvqa_build.chat import BudgetError, ChatError
    from lmms_kvtp.skvqa_build.videos import scan

    criteria = Criteria(arguments.beta, arguments.min_frames)
    questions = read_questions(arguments.dataset, arguments.annotations)[: arguments.limit]
    videos = scan(_folder(arguments))
    names = list(dict.fromkeys(asked.video for asked in questions))
    found = videos.find_all(arguments.dataset, names, arguments.skip_missing)
    if len(found) < len(names):
        missing = [name for name in names if name not in found]
        log.warning("%s", missing_message(arguments.dataset, videos.root, missing, len(names)))
    store = Store(arguments.store or arguments.out / "calls.sqlite")
    settings = choose_settings(arguments, store)
    try:
        built = build_index(arguments.dataset, questions, videos, settings, store)
    except (ChatError, BudgetError) as error:
        sys.stderr.write(f"lmms-kvtp skvqa build: {error}\n")
        return 2
    path = save_index(built, arguments.dataset, arguments.out)
    for used in store.usage():
        if used.input_tokens + used.output_tokens:
            log.info(
                "%s by %s: %d calls, %d input and %d output tokens",
                used.step, used.model, used.calls, used.input_tokens, used.output_tokens,
            )  # fmt: skip
    if arguments.price_input + arguments.price_output:
        total = spent_so_far([arguments.captioner, arguments.scorer, arguments.refiner], store)
        cost = prices_of(arguments).cost(total.input_tokens, total.output_tokens)
        log.info("%.4f dollars at the endpoint, over all starts of this build", cost)
    if built.failures:
        one, listed = built.failures[-1], path.with_suffix("")
        log.warning(
            "%d failures, listed in %s.failures.jsonl; the last, %s of %s: %s",
            len(built.failures), listed, one.step, one.subject, one.reason,
        )  # fmt: skip
    if not built.entries:
        sys.stderr.write(f"lmms-kvtp skvqa build: no question of {arguments.dataset} could be scored\n")
        return 2
    sys.stdout.write(f"{path}\n\n{statistics_table(built.entries, criteria)}\n")
    return 1 if built.failures else 0


def _folder(arguments: argparse.Namespace) -> Path:
    """Name the folder of the videos; archives are unpacked into OUT/videos."""
    from lmms_kvtp.skvqa_build.videos import unpack

    given: list[Path] = arguments.videos
    if len(given) == 1 and given[0].is_dir():
        return given[0]
    into: Path = arguments.out / "videos"
    for archive in given:
        if archive.is_dir() or not archive.exists():
            raise ValueError(f"--videos {archive}: wanted one folder, or archives that exist")
        unpack(archive, into)
    return into


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, and the data set that its items are matched with."""
    parser.add_argument("file", type=Path, help="the authors' skvqa.json")
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--annotations", type=Path, required=True, help="of the data set, as for `skvqa build`")
    parser.add_argument("--videos", type=Path, help="folder of the videos: for seconds, which scorer=oracle reads")
    parser.add_argument("--out", type=Path, required=True, help="folder of the index")
    softmax = "of the softmax (default %(default)s); the release has 2"
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help=softmax)
    add_numbers(parser, [("--beta", BETA, "for the statistics"), ("--min-frames", MIN_FRAMES, "for the statistics")])


def import_release(arguments: argparse.Namespace) -> int:
    """Import; 1 where items could not be read or matched."""
    from lmms_kvtp.skvqa.index import write_entries
    from lmms_kvtp.skvqa_build.release import match_items, read_release
    from lmms_kvtp.skvqa_build.videos import sample_clips, scan
    from lmms_kvtp.video.sampling import FrameOptions

    criteria = Criteria(arguments.beta, arguments.min_frames)
    questions = read_questions(arguments.dataset, arguments.annotations)
    items, problems = read_release(arguments.file)
    clips = {}
    if arguments.videos is not None:
        wanted = {item.video for item in items}
        folder = scan(arguments.videos)
        with tempfile.TemporaryDirectory() as scratch:
            store = Store(Path(scratch) / "frames.sqlite")
            for asked in questions:
                path = folder.find(asked.video)
                if path is not None and path.stem in wanted and asked.video_id not in clips:
                    clips[asked.video_id] = sample_clips(path, store, FrameOptions())
    else:
        log.warning("no --videos, so no seconds: the tasks can filter by this index, scorer=oracle cannot use it")
    imported = match_items(arguments.dataset, items, questions, clips, arguments.temperature, arguments.videos)
    problems += imported.problems
    if problems:
        log.warning("%s", first_few(problems, 10, "\n"))
    counts = f"{len(imported.entries)} questions, {imported.foreign} items of other data sets, {len(problems)} problems"
    if not imported.entries:
        sys.stderr.write(f"lmms-kvtp skvqa import: nothing of {arguments.dataset} in {arguments.file}: {counts}\n")
        return 2
    path = arguments.out / f"{arguments.dataset}.jsonl"
    write_entries(path, imported.entries)
    sys.stdout.write(f"{path}: {counts}\n\n{statistics_table(imported.entries, criteria)}\n")
    return 1 if problems else 0
