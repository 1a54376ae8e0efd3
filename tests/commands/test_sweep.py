"""What a sweep runs; that its answers are those of separate runs is shown in tests/e2e."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.harness_files import samples, write_run

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
        torn = b'{"text": "caf\xc3'  # in the middle of a letter
        (journal / f"{name}_journal_rank0.jsonl").write_bytes(f'{{"journal": 1}}\n{answers}'.encode() + torn)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match=f"^2 answers are in {tmp_path}; the same command goes on there$"):
        sweep([cell], "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before and started[0].poll() is not None


def test_torn_lines_and_damaged_notes_stop_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    [cell] = cells = plan(["random"], [0.2])
    journal = tmp_path / cell.folder / "journal"
    journal.mkdir(parents=True)
    (journal / "a_journal_rank0.jsonl").write_bytes(b'{"journal": 2}\n{"key": "a"}\n{"text": "caf\xc3')
    (tmp_path / cell.folder / "1_results.json").write_text("{}")
    for left in (b"", b"\xff\xfe"):
        (tmp_path / "finished.json").write_bytes(left)
        with pytest.raises(SweepError, match="made no answers"):
            sweep(cells, "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    (tmp_path / "cells.json").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no list of cells in .*cells\.json; remove it to go on"):
        sweep(cells, "skvqa_synth_quick", "pretrained=tiny", tmp_path)


def test_a_finished_sweep_whose_results_are_gone_asks_the_harness_and_damaged_ones_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    monkeypatch.setattr("lmms_kvtp.commands.sweep._depends_on", lambda steps, common: "the same")
    [cell] = cells = plan(["random"], [0.2])
    (tmp_path / "finished.json").write_text("the same")
    (tmp_path / cell.folder).mkdir()
    damaged = tmp_path / cell.folder / "1_results.json"
    damaged.touch()
    with pytest.raises(
        ValueError, match=rf"no results file of the harness: {damaged}; remove it, and start the run ag"
    ):
        sweep(cells, "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    damaged.unlink()
    with pytest.raises(SweepError, match="made no answers"):
        sweep(cells, "skvqa_synth_quick", "pretrained=tiny", tmp_path)


def test_a_finished_sweep_is_another_one_under_another_limit_task_or_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [cell] = cells = plan(["random"], [0.2])
    ready, place = write_run(tmp_path / "ready", samples([1.0, 0.0])), tmp_path / "out" / cell.folder
    lines = [f"mkdir -p {place}/journal; cp -r {ready}/. {place}"]
    lines += [f"echo '{{}}' > {place}/journal/a.jsonl; echo '{{}}' >> {place}/journal/a.jsonl"]
    harness = tmp_path / "harness"
    harness.write_text("\n".join(["#!/bin/sh", *lines, "echo 'Answering: 1/1 ['"]))
    harness.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(harness))
    [run] = sweep(cells, "skvqa_synth", "pretrained=tiny", tmp_path / "out", 3)
    finished = (tmp_path / "out" / "finished.json").read_bytes()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    [again] = sweep(cells, "skvqa_synth", "pretrained=tiny", tmp_path / "out", 3)
    assert again.answers == run.answers
    tiny, fewer = "pretrained=tiny", "pretrained=tiny,max_frames_num=16"
    for task, common, limit in (("skvqa_synth", tiny, 2), ("skvqa_synth_quick", tiny, 3), ("skvqa_synth", fewer, 3)):
        (tmp_path / "out" / "finished.json").write_bytes(finished)
        with pytest.raises(SweepError, match="made no answers"):
            sweep(cells, task, common, tmp_path / "out", limit)


def test_the_cause_is_told_and_not_that_the_harness_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = tmp_path / "harness"
    lines = ("FileNotFoundError: no videos", "", "tenacity.RetryError: RetryError[<Future raised FileNotFoundError>]")
    harness.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(lines) + "\nEND\n")
    harness.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(harness))
    with pytest.raises(SweepError, match=r"FileNotFoundError: no videos$"):
        sweep(plan(["random"], [0.2]), "skvqa_synth_quick", "pretrained=tiny", tmp_path)


def test_a_plug_in_that_does_not_load_and_hides_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "ghost-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ghost\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lmms_eval.models]\nghost = ghost_package:manifests\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["list", "pruner"]) == 0, "other commands go on"
    told = r"ghost = ghost_package:manifests of ghost, ModuleNotFoundError: .* uninstall or mend that package"
    with pytest.raises(LookupError, match=told):
        sweep(plan(["random"], [0.2]), "skvqa_synth_quick", "pretrained=tiny", tmp_path)


def test_a_harness_that_ignores_sigterm_is_killed_and_the_sweep_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harness = tmp_path / "harness"  # what ignores a signal goes on ignoring it as another program
    harness.write_text("#!/bin/sh\ntrap '' TERM\nsleep 0.5\nkill -TERM $PPID\nexec sleep 60\n")
    harness.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(harness))
    monkeypatch.setattr("lmms_kvtp.commands.sweep.GRACE", 0.3)
    with pytest.raises(KeyboardInterrupt, match=f"^0 answers are in {tmp_path}; the same command goes on there$"):
        sweep(plan(["random"], [0.2]), "skvqa_synth_quick", "pretrained=tiny", tmp_path)
    assert "did not end when it was told to, and was killed" in caplog.text
    lock = (tmp_path / ".lock").read_text()
    assert re.fullmatch(rf"{os.getpid()}, harness \d+", lock), "who is at work where the sweep itself was killed"


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
