"""Every cell stands in the row and under the heading that it is of, in all forms of a board: three unlike rows."""

import csv
import io
import json
import re

import pytest
from helpers.harness_files import BASE, COST, OURS, PARTS, read_board, samples, write_base, write_run
from helpers.tags import Tags

from lmms_kvtp.leaderboard.gates import read_records
from lmms_kvtp.leaderboard.page import to_html
from lmms_kvtp.leaderboard.provenance import reported
from lmms_kvtp.leaderboard.results import COSTS, to_csv, to_json
from lmms_kvtp.leaderboard.stats import shown
from lmms_kvtp.leaderboard.tables import to_latex, to_markdown
from lmms_kvtp.leaderboard.verdicts import judge

TASK, PLAN = "skvqa_synth", {"row": "", "against": "", "margin": 3.0}
SCORES = {"full": [1] * 30 + [0] * 10, "grid": [0] + [1] * 29 + [0] * 7 + [1, 0, 1], "random": [1] * 5 + [0] * 35}
RANDOM_COST = {"tokens_kept": 30, "tokens_structural": 4, "prompt_tokens": 50, "peak_bytes": 3 * 2**30, "swept": True}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    full = {**COST, "tokens_kept": 100, "kept_probe": "8:ff", "flops": {"vision": 9e12}}
    common = {"dirty": False, "verdicts": PLAN}
    all_tokens = {"pruner": {"class": "lmms_kvtp.pruners.none:Unpruned"}}
    write_run(folder / "full", samples(SCORES["full"], cost=full), TASK, all_tokens, 1.0, commit="a" * 16, **common)
    grid = {**COST, "tokens_kept": 60, "kept_probe": "8:3c", "flops": {"vision": 2e12}, "seconds": {"prefill": 3.0}}
    parts, place = {"pruner": {"class": "lmms_kvtp.pruners.grid:Grid"}}, {"commit": "c" * 16, "model_args": "n=grid"}
    write_run(folder / "grid", samples(SCORES["grid"], cost=grid), TASK, parts, 0.5, **place, **common)
    cost = {**COST, **RANDOM_COST, "kept_probe": "8:f0", "flops": {"vision": 3e12, "prefill": 5e12}}
    place = {"commit": "b" * 16, "model_args": "n=random", "dirty": True, "verdicts": PLAN}
    write_run(folder / "random", samples(SCORES["random"], cost=cost), TASK, **place)
    record = {"method": PARTS, "gates": [{"name": name, "passed": True} for name in "ab"]}
    (folder / "random_gates.json").write_text(json.dumps(record))
    return read_board(folder, read_records([folder / "random_gates.json"]))


@pytest.fixture(scope="module")
def page(board):
    return to_html(board, [], judge(board), {})


def lines(page: str) -> list[dict[str, str]]:
    """The rows of all tables, by their headings."""
    found, head = [], []
    for row in Tags(page).rows:
        head = row if row[0] == "method" else head
        found += [dict(zip(head, row, strict=True))] if row is not head else []
    return found


def test_every_cell_of_the_page_is_its_row_s(board, page):
    full, grid, random = lines(page)[:3]
    scores = [row.scores[TASK] for row in board.rows]
    assert random == {
        "method": "random TOY uncommitted changes",
        "kept": "30.0%",
        TASK: f"12.5 ± {scores[2].accuracy.stderr:.1f}",
        "against all tokens": f"-62.5 ± {scores[2].difference.stderr:.1f}",
        "verdict": "worse",
        "gates": "passed 2",
        "commit": "bbbbbbbbbb + changes",
        "asked": "25.0%",
        "relative %": f"16.7 ± {board.rows[2].relative.stderr:.1f}",
        "vision tokens": "30",
        "newlines": "4",
        "TFLOPs": "8",
        "seconds": "0.62 shared",
        "peak GiB": "3.0",
    }
    names = ("method", "kept", "asked", "verdict", "gates", "commit", "TFLOPs", "seconds", "newlines", "peak GiB")
    assert [grid[name] for name in names] == [
        *("Grid TOY", "60.0%", "50.0%", "can't tell", "not run", "cccccccccc", "2", "3.00", "3", "-"),
    ]
    assert [full[name] for name in names[:6]] == ["all tokens TOY", "100.0%", "100.0%", "-", "not run", "aaaaaaaaaa"]
    assert (grid[TASK], grid["against all tokens"]) == (
        shown(scores[1].accuracy),
        shown(scores[1].difference, sign="+"),
    )
    assert 'title="the code was changed beside commit bbbbbbbbbbbbbbbb"' in page


def test_every_cell_of_the_page_s_verdicts_is_its_comparison_s(board, page):
    table = [line for line in lines(page) if "gained / lost" in line]
    for line, one, swaps in zip(table, judge(board)[TASK], ("2 / 1", "0 / 25"), strict=True):
        assert line == {
            "method": one.name,
            "verdict against all tokens": one.words,
            "difference": shown(one.difference, sign="+"),
            "95 % interval": f"{one.interval[0]:+.1f} to {one.interval[1]:+.1f}",
            "gained / lost": swaps,
            "p, corrected": f"{one.p_corrected:.2g}",
            "p, equal": f"{one.p_equal:.2g}",
            "resolvable": f"{one.resolvable:.1f}",
            "answers changed": one.change,
            "kept alike %": "100.0 ± 0.0",
        }


def test_breakdowns_and_kept_pairs_are_of_their_rows(board, page):
    kinds = {line["method"]: line["color"] for line in lines(page) if "color" in line}
    assert kinds == {row.title: shown(row.scores[TASK].kinds["color"]) for row in board.rows}
    assert len(set(kinds.values())) == 3
    [*_, pairs] = [line for line in lines(page) if "random, 25%" in line]
    assert pairs == {
        "method": "random, 25%",
        "all tokens": "100.0 ± 0.0",
        "Grid, 50%": "50.0 ± 0.0",
        "random, 25%": "100.0 ± 0.0",
    }


def test_what_ran_is_told_under_each_row_s_own_name(board, page):
    told = dict(re.findall("<details><summary>(.*?)</summary>(.*?)</details>", page, re.DOTALL))
    commits = {"all tokens, 100.0%": "aaaaaaaaaa", "Grid, 50.0%": "cccccccccc", "random, 25.0%": "bbbbbbbbbb + changes"}
    assert list(told) == list(commits)
    for (name, commit), row in zip(commits.items(), board.rows, strict=True):
        [command] = row.commands
        assert f"commit {commit} ·" in told[name] and f"<code>{command}</code>" in told[name]
    table = to_markdown(board, {}).partition("## Commands")[2]
    found = [line for line in table.splitlines() if "n=" in line]
    assert [("Grid" in line, "n=grid" in line, "n=random" in line) for line in found] == [
        (True, True, False),
        (False, False, True),
    ]


def test_every_cell_of_markdown_latex_csv_and_json_is_its_row_s(board):
    accuracy, relative = shown(board.rows[2].scores[TASK].accuracy), shown(board.rows[2].relative)
    head, _, *rows = [line.strip("| ").split("|") for line in to_markdown(board, {}).splitlines()[2:7]]
    assert {key.strip(): cell.strip() for key, cell in zip(head, rows[2], strict=True)} == {
        "method": "random",
        "asked": "25.0%",
        "kept": "30.0%",
        TASK: accuracy,
        "relative": relative,
        "TFLOPs": "8",
        "seconds": "0.62 shared",
        "gates": "passed 2",
        "commit": "bbbbbbbbbb + changes",
    }
    cells = ["random", r"30.0\%", *(text.replace("±", r"$\pm$") for text in (accuracy, relative))]
    assert " & ".join(cells) + r" \\" in to_latex(board).splitlines()
    costs = {"tokens_before": 100, "flops": 8e12, "seconds": 0.625, **RANDOM_COST}
    [*_, line], [*_, row] = csv.DictReader(io.StringIO(to_csv(board))), json.loads(to_json(board))["rows"]
    assert {name: line[name] if name == "swept" else float(line[name]) for name in COSTS} == {**costs, "swept": "True"}
    assert {name: row["cost"][name] for name in COSTS} == costs
    assert (line["keep_ratio"], line["keep_ratio_measured"], line["gates"]) == ("0.25", "0.3", "passed 2")
    names = ("toy", "dirty", "commit", "gates", "keep_ratio", "questions", "failed", "model")
    assert [row[name] for name in names] == [True, True, "b" * 16, "passed 2", 0.25, 40, 0, "tiny abcdef012345 float32"]
    assert row["relative"]["mean"] == pytest.approx(100 / 6) and row["difference"]["mean"] == pytest.approx(-62.5)


def test_one_row_of_the_embedded_model_makes_a_regression_board(tmp_path):
    write_base(tmp_path / "full", BASE, toy=False)
    write_run(tmp_path / "random", samples(OURS), toy=True)
    mixed = read_board(tmp_path)
    page = to_html(mixed, reported(), judge(mixed), {})
    assert "regression board" in page and "Reported by papers" not in page
    assert page.count('<span class="tag">TOY</span>') == 1
    assert mixed.notes[0].startswith("TOY") and "(TOY: an embedded model" in to_latex(mixed)


def test_costs_of_several_tasks_stand_apart(tmp_path):
    for task, kept, seconds in (("one", 30, 2.0), ("two", 80, 5.0)):
        cost = {**COST, "tokens_kept": kept, "seconds": {"prefill": seconds}}
        write_run(tmp_path / task, samples(OURS, cost=cost), task)
    write_run(tmp_path / "grid", samples(OURS), "two", {"pruner": {"class": "lmms_kvtp.pruners.grid:Grid"}})
    grid, random = lines(to_html(read_board(tmp_path), [], {}, {}))[:2]
    names = ("vision tokens, one", "seconds, one", "vision tokens, two", "seconds, two")
    assert [random[name] for name in names] == ["30", "2.00", "80", "5.00"]
    assert [grid[name] for name in names] == ["-", "-", "25", "0.62"]
