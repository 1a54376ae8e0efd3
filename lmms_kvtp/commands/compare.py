"""`lmms-kvtp compare --data mine.jsonl`: methods against all tokens on one's own videos, without labels."""

import argparse
import sys
from pathlib import Path

from lmms_kvtp.commands.arguments import add_model_arguments, at_least_one, model_settings, not_negative, ratios
from lmms_kvtp.commands.cells import add_methods, arguments_of, plan
from lmms_kvtp.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add data, methods and model."""
    parser.add_argument("--data", type=Path, required=True, help="JSONL: video, question; if known, answer and spans")
    add_methods(parser, "kvtp+prumerge,random")
    parser.add_argument("--ratios", type=ratios, default="0.5,0.2", help="shares of vision tokens (default 0.5,0.2)")
    add_model_arguments(parser)
    parser.add_argument("--limit", type=at_least_one, help="only the first so many questions")
    parser.add_argument("--max-new-tokens", type=at_least_one, default=32, help="of an answer (default %(default)s)")
    parser.add_argument("--agreement", type=float, default=95.0, help="in %%, that is asked of a method (default 95)")
    parser.add_argument("--worst", type=not_negative, default=20, help="samples with pictures (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="folder; a stopped comparison goes on there")


def main(arguments: argparse.Namespace) -> int:
    """Write OUT/index.html, OUT/compare.md and OUT/outcomes.jsonl, and print table and recommendation."""
    from lmms_kvtp.compare.measure import FULL, outcomes_of, read
    from lmms_kvtp.compare.summary import HEADER, TEMPLATE, Worst, recommend, rows, summarize, without_lost
    from lmms_kvtp.presets import FULL as UNPRUNED
    from lmms_kvtp.rendering import markdown, page
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
    made, vlm = outcomes_of(given, asked, out / "outcomes.jsonl", worst.add, arguments.max_new_tokens)
    outcomes, notes = without_lost(made)
    notes += [TOY] if vlm.toy else []
    found = summarize(outcomes)
    advice, table = recommend(found, arguments.agreement), markdown(HEADER, rows(found))
    write_whole(out / "compare.md", "\n\n".join([advice, table, *notes, ""]).encode())
    counts = {"questions": found[0].agreement.count, "videos": found[0].videos, "data": arguments.data.name}
    shown = {"header": HEADER, "rows": rows(found), "cases": worst.cases, "advice": advice, "notes": notes, **counts}
    write_whole(out / "index.html", page(TEMPLATE, model=vlm.name, toy=vlm.toy, **shown).encode())
    sys.stdout.write("\n".join([table, *(f"! {note}" for note in notes), "", advice, f"{out / 'index.html'}\n"]))
    return 0
