"""What a sweep runs; that its answers are those of separate runs is shown in tests/e2e."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from lmms_kvtp.commands.sweep import SweepError, Variant, beforehand, plan, sweep, tables, with_verdicts
from lmms_kvtp.commands.table import row_alone
from lmms_kvtp.leaderboard.runs import Run, ScoredAnswer
from lmms_kvtp.run.options import RunOptions, parse_arguments
from lmms_kvtp.settings import pairs


def test_the_plan_has_every_method_at_every_ratio_and_the_unpruned_model_once_and_first() -> None:
    cells = plan(["random", "full", "kvtp+tome"], [0.1, 0.25])
    assert [cell.name for cell in cells] == ["full", "random 10%", "random 25%", "kvtp+tome 10%", "kvtp+tome 25%"]
    assert [cell.settings["keep_ratio"] for cell in cells] == ["1", "0.1", "0.25", "0.1", "0.25"]
    assert len({cell.folder for cell in cells}) == 5


def test_a_cells_folder_lies_directly_below_the_sweeps() -> None:
    cells = plan(["kvtp+tome", "kvtp/softmax+tome", "kvtp/hard+my_pkg.pruners:Mine"], [0.125])
    cells.append(Variant("prumerge, KVTP's tower=1", 0.2, {}))
    assert not any(sign in cell.folder for cell in cells for sign in " %:/,='")


def test_a_recipe_s_layers_are_in_proportion_to_the_depth_of_the_model_that_is_named() -> None:
    layers = [plan(["prunevid"], [0.2], given)[0].settings["layer_pruning.layer"] for given in ("", "pretrained=tiny")]
    assert layers == ["10", "2"]


def test_what_is_named_twice_is_one_cell() -> None:
    cells = plan(["full", "random", "random", "full"], [0.2, 0.2])
    assert [cell.name for cell in cells] == ["full", "random 20%"]


@pytest.mark.parametrize("ratio", [0.0, 1.5, -0.2, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"outside \(0, 1\]; it is the share of vision tokens kept"):
        plan(["random"], [0.2, ratio])


def test_rows_know_the_row_of_their_pruner_alone() -> None:
    alone = {
        cell.name: row_alone(cell)
        for cell in plan(["full", "grid", "hard+grid", "kvtp+grid", "oracle+tome", "kvtp+vidcom2"], [0.4])
    }
    assert alone == {
        "full": "",
        "grid 40%": "",
        "hard+grid 40%": "",
        "kvtp+grid 40%": "grid 40%",
        "oracle+tome 40%": "tome 40%",
        "kvtp+vidcom2 40%": "uniform+vidcom2 40%",
    }


def test_every_task_has_its_table_and_what_went_wrong_below_it() -> None:
    def run(name: str, task: str, score: float, error: str | None = None) -> Run:
        return Run(
            name,
            task,
            (ScoredAnswer("q1", "v1", "", score, None, error), ScoredAnswer("q2", "v2", "", 1.0, None, error)),
            {},
        )

    runs = [run(name, task, float(name == "full")) for name in ("full", "random 20%") for task in ("two", "one")]
    runs[2] = run("random 20%", "two", 0.0, "gone")
    one, two = tables(runs).strip().split("\n\n")
    assert one.splitlines()[0] == "one" and two.splitlines()[0] == "two"
    assert [line.split("|")[1].strip() for line in one.splitlines()[3:5]] == ["full", "random 20%"]
    assert one.splitlines()[-1] == "! random 20%: 2 of 2 answers came from a cache, without cost"
    assert two.splitlines()[-1] == "! random 20%: 2 of 2 questions could not be answered, counted wrong"


def test_a_pass_that_makes_no_answers_is_an_error_and_the_next_goes_on_from_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # the harness ends without a word
    [cell] = plan(["random"], [0.2])
    journal = tmp_path / cell.folder / "journal"
    given = f"pretrained=tiny,scorer=uniform,allocator=uniform,pruner=random,keep_ratio=0.2,journal={journal}"
    with pytest.raises(SweepError, match=f"the pass over the videos made no answers in {tmp_path}"):
        sweep([cell], "skvqa_synth_quick", "pretrained=tiny", tmp_path, 3, include_path="mine")
    assert json.loads((tmp_path / "cells.json").read_text()) == [given]
    [step] = json.loads((tmp_path / "sweep.yaml").read_text())
    assert (step["limit"], step["include_path"]) == (3, "mine")
    journal.mkdir(parents=True)
    (journal / "20260101_journal_rank0.jsonl").write_text('{"journal": 1}\n{"key": "a"}\n')
    with pytest.raises(SweepError):
        sweep([cell], "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    assert json.loads((tmp_path / "cells.json").read_text()) == [f"{given},resume={journal}"]


def test_margin_and_contrasts_stand_in_the_cells_settings() -> None:
    cells = plan(["full", "tome", "kvtp+tome"], [0.1, 0.2])
    assert with_verdicts(cells, None) == cells
    told = {cell.name: cell.settings for cell in with_verdicts(cells, 3.0, "kvtp+tome vs tome, kvtp+tome vs full")}
    assert {name: (of["row"], of["against"], of["margin"]) for name, of in told.items()} == {
        "full": ("full", "none", "3"),
        "tome 10%": ("tome 10%", "none", "3"),
        "tome 20%": ("tome 20%", "none", "3"),
        "kvtp+tome 10%": ("kvtp+tome 10%", "tome 10%;full", "3"),
        "kvtp+tome 20%": ("kvtp+tome 20%", "tome 20%;full", "3"),
    }
    for cell in with_verdicts(cells, 3.0, "kvtp+tome vs tome"):
        read = parse_arguments(pairs("pretrained=tiny," + ",".join(f"{k}={v}" for k, v in cell.settings.items()))).run
        assert read.verdicts == {"row": cell.name, "against": cell.settings["against"], "margin": 3.0}


@pytest.mark.parametrize("contrast", ["kvtp+tome vs random", "random vs tome", "tome"])
def test_a_contrast_of_rows_that_do_not_run_is_refused(contrast: str) -> None:
    with pytest.raises(LookupError, match=f"contrast {re.escape(repr(contrast))}: both must be among --methods"):
        with_verdicts(plan(["full", "tome", "kvtp+tome"], [0.1]), None, contrast)


@pytest.mark.parametrize("margin", [0.0, 100.0, float("nan")])
def test_a_margin_out_of_range_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin=\S+ is not above 0 and below 100; give points"):
        RunOptions(margin=margin)


def test_a_sweep_says_what_a_board_will_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_kvtp.run.source.tree", lambda: {"dirty": True})
    dirty, full, margin = beforehand(plan(["random"], [0.2]), None)
    assert "no commit holds" in dirty and "full is not among the methods" in full and "no --margin" in margin
    monkeypatch.setattr("lmms_kvtp.run.source.tree", lambda: {"dirty": False})
    assert beforehand(plan(["full", "random"], [0.2]), 3.0) == []


def test_a_sweep_keeps_the_margin_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    cells = plan(["random"], [0.2])
    with pytest.raises(SweepError):
        sweep(with_verdicts(cells, 3.0), "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    with pytest.raises(ValueError, match=r"was begun with margin=3, against=all tokens; go on with these"):
        sweep(with_verdicts(cells, 5.0), "skvqa_synth_quick", "pretrained=tiny", tmp_path)
