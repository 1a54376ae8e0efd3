"""`lmms-kvtp compare --data mine.jsonl`: methods against all tokens on one's own videos, without labels."""

import argparse
import json
import sys
from pathlib import Path

from lmms_kvtp.commands.arguments import add_model_arguments, at_least_one, not_negative, ratios
from lmms_kvtp.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add data, methods and model."""
    parser.add_argument("--data", type=Path, required=True, help="JSONL: video, question, and answer where known")
    parser.add_argument("--methods", default="kvtp+prumerge,random", help="as in sweep (default %(default)s)")
    parser.add_argument("--method", action="append", default=[], help="repeatable: one more, by its settings, a=b,c=d")
    shares = "shares of vision tokens kept (default %(default)s)"
    parser.add_argument("--ratios", type=ratios, default="0.5,0.2", help=shares)
    add_model_arguments(parser)
    parser.add_argument("--max-new-tokens", type=at_least_one, default=32, help="of an answer (default %(default)s)")
    parser.add_argument("--agreement", type=float, default=95.0, help="in %%, that is asked of a method (default 95)")
    parser.add_argument("--worst", type=not_negative, default=20, help="samples with pictures (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="folder (default %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Write OUT/index.html, OUT/compare.md and OUT/outcomes.jsonl, and print table and recommendation."""
    from lmms_kvtp.api import load
    from lmms_kvtp.compare.measure import FULL, measure, read
    from lmms_kvtp.compare.summary import HEADER, Worst, recommend, rows, summarize, to_html
    from lmms_kvtp.leaderboard.provenance import row_name
    from lmms_kvtp.presets import typed
    from lmms_kvtp.rendering import markdown

    named = [name for name in arguments.methods.split(",") if name not in ("", "full")]
    if not named + arguments.method:
        raise ValueError(f"--methods {arguments.methods!r} leaves nothing to compare; name one, such as kvtp+prumerge")
    if not 0 <= arguments.agreement <= 100:
        raise ValueError(f"--agreement {arguments.agreement} is outside 0 to 100; it is a percentage, such as 95")
    asked = read(arguments.data)
    wanted = ["full", *named, *arguments.method]
    typed(wanted, arguments.ratios)  # refused before the model loads
    model = load(arguments.pretrained, dtype=arguments.dtype)
    settings = typed(wanted, arguments.ratios, len(model.vlm.layers))
    built = {name: model.method(values) for name, values in settings.items()}
    methods = {row_name(name, method.describe()): method for name, method in built.items()}
    frames = model.vlm.frames_of(arguments.max_frames, arguments.fps)
    outcomes, worst = [], Worst(arguments.worst)
    arguments.out.mkdir(parents=True, exist_ok=True)
    assert FULL in methods
    with (arguments.out / "outcomes.jsonl").open("w", encoding="utf-8") as file:
        for outcome, kept in measure(model.vlm, methods, asked, frames, arguments.max_new_tokens):
            worst.add(outcome, kept)
            outcomes.append(outcome)
            line = {**vars(outcome), **vars(outcome.asked), "agrees": outcome.agrees, "right": outcome.right}
            file.write(json.dumps({key: value for key, value in line.items() if key != "asked"}, default=str) + "\n")
    found = summarize(outcomes)
    advice, table = recommend(found, arguments.agreement), markdown(HEADER, rows(found))
    write_whole(arguments.out / "compare.md", f"{advice}\n\n{table}\n")
    page = to_html(found, worst.cases, advice, arguments.data.name, model.vlm.name, model.vlm.toy)
    write_whole(arguments.out / "index.html", page)
    sys.stdout.write(f"{table}\n\n{advice}\n{arguments.out / 'index.html'}\n")
    return 0
