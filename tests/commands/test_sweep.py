"""What a sweep runs; that its answers are those of separate runs is shown in tests/e2e."""

import fcntl
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.sweep import (
    SweepError,
    Variant,
    arguments_of,
    beforehand,
    only,
    plan,
    sweep,
    tables,
    with_verdicts,
)
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


def test_settings_behind_a_name_are_axes_where_they_take_one_value() -> None:
    cells = plan(["kvtp+tome,allocator.temperature=0.5:1:2,encoder.pretrained=tiny"], [0.2, 0.1])
    assert [cell.settings["allocator.temperature"] for cell in cells] == ["0.5"] * 2 + ["1.0"] * 2 + ["2.0"] * 2
    assert cells[0].name == "kvtp+tome,allocator.temperature=0.5,encoder.pretrained=tiny 20%"
    assert {cell.settings["scorer"] for cell in cells} == {"kvtp"} and len({cell.folder for cell in cells}) == 6
    own = plan(["name=grid,keep_ratio=0.3:0.4", "pruner=my_pkg.parts:Mine,scorer=uniform"], [0.2])
    assert [cell.name for cell in own] == ["grid 30%", "grid 40%", "pruner=my_pkg.parts:Mine,scorer=uniform 20%"]


def test_a_setting_that_takes_several_values_is_none() -> None:
    given = "pruner=none,layer_pruning=pyramiddrop,layer_pruning.layers=1:2:3,layer_pruning.ratios=0.9:0.8:0.7"
    [cell] = plan([given], [1.0])
    assert cell.settings["layer_pruning.layers"] == "1:2:3"


def test_a_value_that_is_no_number_names_the_setting() -> None:
    with pytest.raises(ValueError, match=r"allocator\.temperature='a' is not a number"):
        plan(["kvtp+tome,allocator.temperature=1:a"], [0.2])


def test_the_unpruned_model_takes_no_method_from_the_arguments_of_all_cells() -> None:
    full, random = plan(["llava_video", "random"], [0.2])
    common = "pretrained=tiny,layer_pruning=fastv,max_frames_num=8"
    assert "layer_pruning" not in arguments_of(common, full) and "max_frames_num=8" in arguments_of(common, full)
    assert "layer_pruning=fastv" in arguments_of(common, random)


def test_an_argument_that_a_method_overrides_is_an_error() -> None:
    [cell] = plan(["random"], [0.2])
    assert arguments_of("scorer=uniform", cell).count("scorer=") == 1
    with pytest.raises(ValueError, match=r"scorer=oracle contradicts method 'random 20%', which sets scorer=uniform"):
        arguments_of("pretrained=tiny,scorer=oracle", cell)


def test_one_method_is_one() -> None:
    assert "keep_ratio=0.3" in only("random", 0.3, "pretrained=tiny")
    with pytest.raises(ValueError, match="names 2 methods; give one"):
        only("kvtp+tome,allocator.temperature=1:2", None, "pretrained=tiny")
    with pytest.raises(ValueError, match=r"has a keep_ratio, and --keep-ratio 0\.3 is another"):
        only("tome,keep_ratio=0.2", 0.3, "pretrained=tiny")


def test_under_torchrun_one_process_sweeps_and_several_machines_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["sweep", "--methods", "random", "--out", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == "" and not (tmp_path / "none").exists()
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(SweepError, match="a sweep runs on one machine, not on 2"):
        sweep(plan(["random"], [0.2]), "skvqa_synth_quick", "pretrained=tiny", tmp_path)


def test_a_second_sweep_on_a_folder_is_refused_and_a_lock_of_a_process_that_died_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    cells = plan(["random"], [0.2])
    with (tmp_path / ".lock").open("w") as other:
        other.write("77")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SweepError, match=rf"another sweep \(process 77\) is at work in {tmp_path}; wait until it"):
            sweep(cells, "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    with pytest.raises(SweepError, match="made no answers"):
        sweep(cells, "skvqa_synth_quick", "pretrained=tiny", tmp_path)


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
