"""A sweep gives the answers and token counts of separate runs, and goes on where it broke off."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.cells import plan
from lmms_kvtp.commands.sweep import sweep
from lmms_kvtp.leaderboard.runs import Run, read_runs

TASK, LIMIT = "skvqa_synth_quick", 5
OTHERS = ["--ratios", "0.3", "--tasks", TASK, "--limit", str(LIMIT)]
CELLS = plan(["full", "random", "kvtp+prumerge"], [0.3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder: Path) -> list[Run]:
    return sweep(CELLS, TASK, "pretrained=tiny", folder / "swept", LIMIT)


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[int, str]:
    """A sweep that SIGTERM ends behind its first answer: its exit status and what it said."""
    command = [sys.executable, "-P", "-m", "lmms_kvtp", "sweep", "--methods", "random,kvtp+prumerge,full", *OTHERS]
    command += ["--out", str(folder / "stopped")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while _answers(folder / "stopped") < 1:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate()
    return process.returncode, told


def _answers(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) - 1 for file in folder.glob("*/journal/*.jsonl"))


def test_sigterm_ends_the_harness_too_and_two_lines_say_how_to_go_on(folder: Path, stopped: tuple[int, str]) -> None:
    code, told = stopped
    *_, first, second = told.splitlines()
    assert (code, first) == (130, "lmms-kvtp sweep: stopped")
    assert re.fullmatch(r"\d+ answers are in .*stopped; the same command goes on there", second)
    assert "Traceback" not in told and str(folder / "stopped" / "harness.log") in told


def test_answers_and_counts_are_those_of_separate_runs(folder: Path, swept: list[Run]) -> None:
    steps = [
        {
            "model": "llava_video_kvtp",
            "model_args": "pretrained=tiny,journal=none," + ",".join(f"{k}={v}" for k, v in cell.settings.items()),
            "tasks": TASK,
            "limit": LIMIT,
            "log_samples": True,
            "output_path": str(folder / "alone" / cell.folder),
        }
        for cell in CELLS
    ]
    (folder / "alone.yaml").write_text(json.dumps(steps))
    command = [sys.executable, "-m", "lmms_eval", "--config", str(folder / "alone.yaml")]
    subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, check=True)
    for cell, run in zip(CELLS, swept, strict=True):
        [alone] = read_runs(folder / "alone" / cell.folder, cell.name)
        assert texts(folder / "swept" / cell.folder) == texts(folder / "alone" / cell.folder)
        for ours, theirs in zip(run.answers, alone.answers, strict=True):
            assert ours.cost is not None and theirs.cost is not None
            assert ours.cost.tokens_kept == theirs.cost.tokens_kept
            assert ours.cost.layer_lengths == theirs.cost.layer_lengths
            assert ours.cost.flops == theirs.cost.flops
            assert (ours.cost.swept, theirs.cost.swept) == (True, False)


def test_a_sweep_that_broke_off_goes_on(folder: Path, swept: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    [journal] = (folder / "swept" / CELLS[1].folder / "journal").glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-2]))  # its last two answers are lost
    (folder / "swept" / "finished.json").unlink()
    command = ["sweep", "--methods", "random,kvtp+prumerge,full", *OTHERS, "--out", str(folder / "swept")]
    assert main(command) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in shown if line.startswith("| ")] == [
        "method",
        *(cell.name for cell in CELLS),
    ]
    again = [read_runs(folder / "swept" / cell.folder, cell.name)[0] for cell in CELLS]
    assert [len(run.answers) for run in again] == [LIMIT] * 3
    assert [[r.score for r in run.answers] for run in again] == [[r.score for r in run.answers] for run in swept]
    kept = [r.cost.seconds for r in swept[0].answers if r.cost]
    assert [r.cost.seconds for r in again[0].answers if r.cost] == kept, "answers that were there are not made again"
    told = (folder / "swept" / "harness.log").read_bytes()
    assert main(command) == 0, "where nothing is left to do the harness is not started"
    assert (folder / "swept" / "harness.log").read_bytes() == told
    assert capsys.readouterr().out.splitlines() == shown


def texts(folder: Path) -> dict[str, str]:
    newest = sorted(folder.rglob("*_samples_*.jsonl"))[-1]
    rows = [json.loads(line) for line in newest.read_text().splitlines()]
    return {row["question_id"]: row["filtered_resps"][0] for row in rows}
