"""What a sweep runs; that its answers are those of separate runs is shown in tests/e2e."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.cells import plan, with_verdicts
from lmms_kvtp.commands.sweep import SweepError, sweep, tables
from lmms_kvtp.commands.table import row_alone
from lmms_kvtp.leaderboard.runs import Run, ScoredAnswer
from lmms_kvtp.run.options import RunOptions


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


def test_a_stopped_sweep_counts_an_answer_that_was_taken_over_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, started, popen = tmp_path / "harness", [], subprocess.Popen
    harness.write_text("#!/bin/sh\nexec sleep 1000\n")
    harness.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(harness))

    def stopped_at_once(*args: Any, **more: Any) -> Any:
        process = popen(*args, **more)
        if args and args[0][0] == str(harness):
            started.append(process)
            os.kill(os.getpid(), signal.SIGTERM)  # at the earliest that it can come
        return process

    monkeypatch.setattr(subprocess, "Popen", stopped_at_once)
    [cell] = plan(["random"], [0.2])
    journal = tmp_path / cell.folder / "journal"
    journal.mkdir(parents=True)
    for name, answers in (("a", '{"key": "a"}\n'), ("b", '{"key": "a"}\n{"key": "b"}\n')):
        (journal / f"{name}_journal_rank0.jsonl").write_text('{"journal": 1}\n' + answers)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match=f"^2 answers are in {tmp_path}; the same command goes on there$"):
        sweep([cell], "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before and started[0].poll() is not None


@pytest.mark.parametrize("margin", [0.0, 100.0, float("nan")])
def test_a_margin_out_of_range_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin=\S+ is not above 0 and below 100; give points"):
        RunOptions(margin=margin)


def test_a_sweep_keeps_the_margin_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    cells = plan(["random"], [0.2])
    with pytest.raises(SweepError):
        sweep(with_verdicts(cells, 3.0), "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    with pytest.raises(ValueError, match=r"was begun with margin=3, against=all tokens; go on with these"):
        sweep(with_verdicts(cells, 5.0), "skvqa_synth_quick", "pretrained=tiny", tmp_path)
