"""`lmms-kvtp visualize VIDEO "QUESTION" --method a --method b`: what each method keeps, as a page and a PNG."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_kvtp.commands.arguments import add_model_arguments, at_least_one, model_settings
from lmms_kvtp.commands.cells import arguments_of, plan
from lmms_kvtp.files import write_whole
from lmms_kvtp.presets import FULL, METHOD_HELP
from lmms_kvtp.settings import pairs

if TYPE_CHECKING:
    from lmms_kvtp.method import Method
    from lmms_kvtp.video.frames import Video
    from lmms_kvtp.visualize.picture import MethodPicture
    from lmms_kvtp.vlms.base import VideoVLM

METHODS = ("full", "kvtp+prumerge", "random")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the question, the video and the methods."""
    parser.add_argument("video", type=Path, help="a file, or a folder of image files")
    parser.add_argument("question", help="all of the text that the model gets, options included")
    names = f"repeatable: {METHOD_HELP} (default {', '.join(METHODS)})"
    parser.add_argument("--method", action="append", help=names)
    parser.add_argument("--ratio", type=float, default=0.2, help="share kept by methods given by name (default 0.2)")
    add_model_arguments(parser)
    parser.add_argument("--show", type=at_least_one, default=24, help="frames in the pictures (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("visualize"), help="folder (default %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Write OUT/index.html and OUT/frames.png, and print the answers."""
    from lmms_kvtp.api import Model
    from lmms_kvtp.leaderboard.provenance import row_name
    from lmms_kvtp.rendering import markdown
    from lmms_kvtp.run.options import check_arguments, parse_arguments
    from lmms_kvtp.shipped import TOY
    from lmms_kvtp.video.load import load_video
    from lmms_kvtp.vlms.base import load_vlm

    common = model_settings(arguments)
    cells = plan(arguments.method or METHODS, [arguments.ratio], common)
    given = {"all tokens" if cell.method == FULL else cell.name: arguments_of(common, cell) for cell in cells}
    check_arguments(list(given.values()))  # before the model loads
    settings = {name: parse_arguments(pairs(text)) for name, text in given.items()}
    first = next(iter(settings.values()))
    model = Model(load_vlm(first.run.pretrained, first.load))
    video = load_video(arguments.video, first.frames)
    built = {name: model.method(one.method) for name, one in settings.items()}
    methods = {row_name(name, method.describe()): method for name, method in built.items()}
    name = arguments.video.name
    found = write_pictures(model.vlm, methods, video, name, arguments.question, arguments.out, arguments.show)
    rows = [[p.name, p.answer.text, f"{p.answer.cost.tokens_kept}/{p.answer.cost.tokens_before}"] for p in found]
    table, toy = markdown(["method", "answer", "vision tokens"], rows), f"! {TOY}\n" * model.vlm.toy
    sys.stdout.write(f"{table}\n{toy}{arguments.out / 'index.html'}\n")
    return 0


def write_pictures(
    vlm: "VideoVLM", methods: "Mapping[str, Method]", video: "Video", name: str, question: str, out: Path, show: int
) -> "list[MethodPicture]":
    """Ask a question with every method, and write page and PNG, with `show` frames, into the folder `out`.

    `name` is the video's, and `question` all of the text that the model gets.
    """
    from lmms_kvtp.questions import Question, refine
    from lmms_kvtp.visualize.page import sheet, to_html
    from lmms_kvtp.visualize.picture import most_telling, pictures, small_frames

    found = pictures(vlm, methods, video, Question(question, refined=refine(question)))
    frames, shown = small_frames(video).of_steps(len(found[0].kept)), most_telling(found, show)
    write_whole(out / "index.html", to_html(found, frames, shown, name, question, vlm.toy))
    write_whole(out / "frames.png", sheet(found, frames, shown, question))
    return found
