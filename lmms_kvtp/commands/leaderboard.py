"""`lmms-kvtp leaderboard`: finished runs of the harness as Markdown, LaTeX, CSV, JSON and HTML; proofs as a page."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from lmms_kvtp.files import write_whole

FACETS = ("tasks", "selection", "questions", "frames", "model", "versions", "dirty", "gates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which runs to read, where to write, and what may be mixed."""
    parser.add_argument("runs", nargs="*", type=Path, help="folders with results and samples of the harness")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pages")
    parser.add_argument("--gates", type=Path, nargs="*", default=[], help="records of `lmms-kvtp doctor`")
    parser.add_argument("--allow", nargs="*", default=[], choices=FACETS, help="what may differ within a column")
    parser.add_argument("--results", type=Path, help="also write one JSON file for each row and task into this folder")
    parser.add_argument("--against", type=Path, help="fail where a row is worse than its file in this folder")
    parser.add_argument("--real", type=Path, help="folder of what `lmms-kvtp prove` wrote, for a board of its own")


def main(arguments: argparse.Namespace) -> int:
    """Write the pages and print the table; 1 where something was refused or a row is worse than its stored result."""
    if not arguments.runs and not arguments.real:
        raise ValueError("there is nothing to show; name folders with runs, or one with proofs by --real")
    parts = (arguments.runs, _board), (arguments.real, _real)
    return max(write(arguments) for given, write in parts if given)


def _real(arguments: argparse.Namespace) -> int:
    from lmms_kvtp.leaderboard.discover import read_proofs
    from lmms_kvtp.leaderboard.page import real_weights

    proofs, left = read_proofs(arguments.real)
    write_whole(arguments.out / "real.html", real_weights(proofs, left))
    sys.stdout.write("".join(f"! refused: {item.what}: {item.why}\n" for item in left))
    sys.stdout.write(f"{arguments.out / 'real.html'}: {len(proofs)} proofs on real weights\n")
    return int(bool(left))


def _board(arguments: argparse.Namespace) -> int:
    from lmms_kvtp.leaderboard.discover import pending_runs

    with pending_runs(arguments.runs, os.cpu_count() or 1) as runs:  # while this process loads the harness: seconds
        from lmms_kvtp.leaderboard import results
        from lmms_kvtp.leaderboard.board import build
        from lmms_kvtp.leaderboard.gates import find_records, read_records
        from lmms_kvtp.leaderboard.page import SAMPLES, plots, to_html
        from lmms_kvtp.leaderboard.provenance import reported
        from lmms_kvtp.leaderboard.tables import to_latex, to_markdown
        from lmms_kvtp.leaderboard.verdicts import judge
        from lmms_kvtp.rendering import page

        gates, left = find_records(arguments.runs)
        runs = replace(runs, left=[*runs.left, *left])
        board = build(runs, [*gates, *read_records(arguments.gates)], arguments.allow)
    published, judged, drawn = reported(), judge(board), plots(board)
    stored = results.bands(board, arguments.against) if arguments.against else {}
    script = results.sample_script(board)
    pages = {
        "leaderboard.md": to_markdown(board, judged),
        "leaderboard.tex": to_latex(board),
        "leaderboard.csv": results.to_csv(board),
        "leaderboard.json": results.to_json(board),
        "index.html": to_html(board, published, judged, drawn, stored, bool(script), arguments.real is not None),
        **({"samples.html": page(SAMPLES), "samples.js": script} if script else {}),
    }
    for name, text in pages.items():
        write_whole(arguments.out / name, text)
    for task, by_axis in drawn.items():
        for axis, (_, pdf) in by_axis.items():
            write_whole(arguments.out / "plots" / f"{results.plain(task)}_{results.plain(axis)}.pdf", pdf)
    worse = [band.fall for band in stored.values() if band.fall]
    if arguments.results:
        results.write_results(board, arguments.results)
    table = pages["leaderboard.md"].partition("## Commands")[0]
    sys.stdout.write(f"{table}{''.join(f'! {line}' + chr(10) for line in worse)}\n{arguments.out / 'index.html'}\n")
    return 1 if board.refused or worse else 0
