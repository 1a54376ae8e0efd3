"""The embedded benchmark's tables say what the runs hold, and its figures draw them."""

from pathlib import Path

import pytest

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.leaderboard import embedded
from lmms_kvtp.leaderboard.runs import Run, ScoredAnswer


def run(name: str, right: str, kept: int) -> Run:
    """Six questions on three videos; `right` has a 1 for each right answer."""
    cost = SampleCost(tokens_before=40, tokens_kept=kept)
    answers = [
        ScoredAnswer(
            question=f"q{i}",
            video=f"v{i // 2}",
            kind="color" if i % 2 else "end",
            score=float(hit == "1"),
            cost=cost,
            error=None,
        )
        for i, hit in enumerate(right)
    ]
    return Run(name, "task", tuple(answers), {})


FULL, ALONE, KVTP = run("full", "111111", 40), run("random", "101010", 8), run("kvtp+random", "111010", 8)
RUNS = {each.name: each for each in (FULL, ALONE, KVTP)}


def cells(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_a_row_has_its_accuracy_its_differences_and_its_kinds() -> None:
    found = cells(embedded.table(RUNS, {"kvtp+random": "random"}, ("color", "end")))
    assert found["full"][:1] + found["full"][2:4] == ["100.0 %", "-", "-"]
    assert found["random"][0] == "20.0 %"
    assert found["random"][1].startswith("50.0 ±")
    assert found["random"][3] == "-"
    assert found["kvtp+random"][2].startswith("-33.3 ±")
    assert found["kvtp+random"][3].startswith("16.7 ±")
    assert [cell.split(" ±")[0] for cell in found["kvtp+random"][4:]] == ["33", "100"]


def test_seeds_stand_side_by_side_with_their_spread() -> None:
    other = {**RUNS, "full": run("full", "111110", 40), "random": run("random", "100010", 8)}
    found = cells(embedded.seeds_table({"seed 0": RUNS, "seed 1": other}))
    assert [cell.split(" ±")[0] for cell in found["random"]] == ["50.0", "33.3", "16.7", "-50.0", "-50.0"]
    assert found["full"][2:] == ["16.7", "-", "-"]


def test_only_sparse_questions_are_left() -> None:
    left = embedded.sparse(KVTP, {f"q{i}": 1.0 + i / 2 for i in range(6)}, 2.0)
    assert [answer.question for answer in left.answers] == ["q2", "q3", "q4", "q5"]


@pytest.mark.parametrize("draw", ["tokens", "temperatures", "sparsity"])
def test_figures_name_their_lines(draw: str, tmp_path: Path) -> None:
    file = tmp_path / "figures" / f"{draw}.svg"
    if draw == "tokens":
        by_share = {100 * embedded.kept(run): run for run in (ALONE, KVTP)}
        embedded.draw_curves(file, "tokens", {"random pruning": by_share}, FULL, 10.0, "{:.0f}")
    elif draw == "temperatures":
        embedded.draw_curves(file, "temperatures", {"random pruning": {0.5: ALONE, 2.0: KVTP}}, FULL, 2.0, "{:g}")
    else:
        embedded.draw_sparsity(file, {"random pruning": ALONE}, {f"q{i}": 1.0 + i for i in range(6)}, (1.5, 2.5))
    text = file.read_text()
    assert ">random pruning<" in text
    assert draw == "sparsity" or f">{draw}<" in text
    assert (">all tokens<" in text) == (draw != "sparsity")
