"""`lmms-kvtp skvqa import`: the paper's own labels as an index."""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from lmms_kvtp.rendering import first_few
from lmms_kvtp.skvqa.entry import DATASETS, TEMPERATURE
from lmms_kvtp.skvqa.layouts import read_questions
from lmms_kvtp.skvqa.stats import BETA, MIN_FRAMES, Criteria, statistics_table

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, and the data set that its items are matched with."""
    parser.add_argument("file", type=Path, help="the authors' skvqa.json")
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--annotations", type=Path, required=True, help="of the data set, as for `skvqa build`")
    parser.add_argument("--videos", type=Path, help="folder of the videos: for seconds, which scorer=oracle reads")
    parser.add_argument("--out", type=Path, required=True, help="folder of the index")
    softmax = "of the softmax (default %(default)s); the release has 2"
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help=softmax)
    parser.add_argument("--beta", type=float, default=BETA, help="for the statistics (default %(default)s)")
    parser.add_argument("--min-frames", type=int, default=MIN_FRAMES, help="for the statistics (default %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Import; 1 where items could not be read or matched."""
    from lmms_kvtp.skvqa.index import write_entries
    from lmms_kvtp.skvqa_build.release import match_items, read_release
    from lmms_kvtp.skvqa_build.store import Store
    from lmms_kvtp.skvqa_build.video_folder import scan
    from lmms_kvtp.skvqa_build.videos import sample_clips
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
