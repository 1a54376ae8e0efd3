"""`lmms-kvtp compare --data mine.jsonl`: methods against all tokens on one's own videos, without labels."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_kvtp.commands.arguments import add_model_arguments, at_least_one, model_settings, not_negative, ratios
from lmms_kvtp.commands.sweep import add_methods, arguments_of, plan
from lmms_kvtp.settings import pairs

if TYPE_CHECKING:
    from lmms_kvtp.compare.measure import FileQuestion, MethodOutcome
    from lmms_kvtp.compare.summary import Worst
    from lmms_kvtp.vlms.base import VideoVLM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add data, methods and model."""
    fields = "JSONL: video, question, and where known answer and spans"
    parser.add_argument("--data", type=Path, required=True, help=fields)
    add_methods(parser, "kvtp+prumerge,random")
    shares = "shares of vision tokens kept (default %(default)s)"
    parser.add_argument("--ratios", type=ratios, default="0.5,0.2", help=shares)
    add_model_arguments(parser)
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions")
    parser.add_argument("--max-new-tokens", type=at_least_one, default=32, help="of an answer (default %(default)s)")
    parser.add_argument("--agreement", type=float, default=95.0, help="in %%, that is asked of a method (default 95)")
    parser.add_argument("--worst", type=not_negative, default=20, help="samples with pictures (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="folder; a stopped comparison goes on there")


def main(arguments: argparse.Namespace) -> int:
    """Write OUT/index.html, OUT/compare.md and OUT/outcomes.jsonl, and print table and recommendation."""
    from lmms_kvtp.compare.measure import FULL, read
    from lmms_kvtp.compare.summary import HEADER, Worst, recommend, rows, summarize, to_html, without_lost
    from lmms_kvtp.files import write_whole
    from lmms_kvtp.presets import FULL as UNPRUNED
    from lmms_kvtp.rendering import markdown
    from lmms_kvtp.run.options import check_arguments
    from lmms_kvtp.shipped import TOY

    named = [name for name in arguments.methods.split(",") if name not in ("", UNPRUNED)]
    if not named + arguments.method:
        raise ValueError(f"--methods {arguments.methods!r} leaves nothing to compare; name one, such as kvtp+prumerge")
    if not 0 <= arguments.agreement <= 100:
        raise ValueError(f"--agreement {arguments.agreement} is outside 0 to 100; it is a percentage, such as 95")
    asked, common = read(arguments.data, arguments.limit), model_settings(arguments)
    cells = plan([UNPRUNED, *named, *arguments.method], arguments.ratios, common)
    given = {FULL if cell.method == UNPRUNED else cell.name: arguments_of(common, cell) for cell in cells}
    check_arguments(list(given.values()))  # before the model loads
    out, worst = arguments.out, Worst(arguments.worst)
    out.mkdir(parents=True, exist_ok=True)
    made, vlm = _outcomes(given, asked, out / "outcomes.jsonl", worst, arguments.max_new_tokens)
    outcomes, notes = without_lost(made)
    notes += [TOY] if vlm.toy else []
    found = summarize(outcomes)
    advice, table = recommend(found, arguments.agreement), markdown(HEADER, rows(found))
    write_whole(out / "compare.md", "\n\n".join([advice, table, *notes, ""]).encode())
    page = to_html(found, worst.cases, advice, arguments.data.name, vlm.name, vlm.toy, notes)
    write_whole(out / "index.html", page.encode())
    sys.stdout.write("\n".join([table, *(f"! {note}" for note in notes), "", advice, f"{out / 'index.html'}\n"]))
    return 0


def _outcomes(
    given: Mapping[str, str], asked: "Sequence[FileQuestion]", file: Path, worst: "Worst", max_new_tokens: int
) -> "tuple[list[MethodOutcome], VideoVLM]":
    """Answer with the `--model_args` of every row; outcomes go to `file` as they come, those there are taken over."""
    from lmms_kvtp.compare.measure import measure, read_outcomes
    from lmms_kvtp.device import find_device
    from lmms_kvtp.files import write_whole
    from lmms_kvtp.leaderboard.provenance import row_name
    from lmms_kvtp.run.answerer import Lane
    from lmms_kvtp.run.build import build
    from lmms_kvtp.run.journal import Session
    from lmms_kvtp.run.options import parse_arguments

    lanes = {}
    for name, text in given.items():
        settings = parse_arguments(pairs(text))
        built = build(settings, find_device(settings.load.device), {})
        run = replace(settings.run, share_prefix=False)  # each answer's time is that of a question asked alone
        lanes[row_name(name, built.method.describe())] = Lane(built, run, Session(built.setup, None, None))
    made, known = [], read_outcomes(file)
    try:
        with file.open("a", encoding="utf-8") as lines:
            for outcome, kept in measure(lanes, asked, settings.frames, max_new_tokens, known):
                made.append(replace(outcome, pictures=worst.add(outcome, kept)))
                lines.write(json.dumps(made[-1].to_row(), allow_nan=False) + "\n")
                lines.flush()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{len(made)} outcomes are in {file}; the same command goes on there") from None
    write_whole(file, "".join(json.dumps(one.to_row(), allow_nan=False) + "\n" for one in made).encode())
    return made, built.vlm
