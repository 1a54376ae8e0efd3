"""A sweep gives the answers and token counts of separate runs, and goes on where it broke off."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.cells import plan
from lmms_kvtp.commands.sweep import SweepError, sweep
from lmms_kvtp.leaderboard.discover import discover
from lmms_kvtp.leaderboard.runs import Run, read_runs

TASK, LIMIT = "skvqa_synth_quick", 5
MODEL = "pretrained=tiny,share_prefix=false"  # what is reused depends on what was answered before a stop
COMMAND = ["sweep", "--methods", "random,kvtp+prumerge,full", "--ratios", "0.3", "--tasks", TASK, "--limit", str(LIMIT)]
COMMAND += ["--model_args", MODEL]
CELLS = plan(["full", "random", "kvtp+prumerge"], [0.3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[int, str, list[dict[str, Any]]]:
    """A sweep that SIGTERM ends behind its first answer: its exit status, what it said, and the answers it left."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "lmms_kvtp", *COMMAND, "--out", str(folder / "swept")],
        env=os.environ | {"TZ": "Asia/Tokyo"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not answers(folder / "swept"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate()
    return process.returncode, told, answers(folder / "swept")


@pytest.fixture(scope="module")
def swept(folder: Path, stopped: tuple[int, str, list[dict[str, Any]]]) -> list[Run]:
    """What the same sweep gives when it is started again."""
    return sweep(CELLS, TASK, MODEL, folder / "swept", LIMIT)


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 28 KiB."""
    (folder / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=28k", "none", str(folder / "small")]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder / "small"
    subprocess.run(["umount", "-l", str(folder / "small")], check=True)


def answers(folder: Path) -> list[dict[str, Any]]:
    """Answers in all journals of a sweep; each line must be whole."""
    lines = [file.read_text().split("\n")[1:-1] for file in sorted(folder.glob("*/journal/*.jsonl"))]
    return [json.loads(line) for of_file in lines for line in of_file]


def test_sigterm_ends_the_harness_too_and_two_lines_say_how_to_go_on(
    folder: Path, stopped: tuple[int, str, list[dict[str, Any]]]
) -> None:
    code, told, _ = stopped
    *_, first, second = told.splitlines()
    assert (code, first) == (130, "lmms-kvtp sweep: stopped")
    assert re.fullmatch(r"\d+ answers are in .*swept; the same command goes on there", second)
    assert "Traceback" not in told and str(folder / "swept" / "harness.log") in told


def test_a_full_disk_ends_a_sweep_in_words_and_keeps_the_answers(small_disk: Path, swept: list[Run]) -> None:
    with pytest.raises(SweepError, match=r"made \d+ of 15 answers in .*small; .*no space is left there; free some"):
        sweep(CELLS, TASK, "pretrained=tiny", small_disk, LIMIT)
    assert 0 < len(answers(small_disk)) < 3 * LIMIT


def test_answers_and_counts_are_those_of_separate_runs_by_each_row_s_printed_command(
    folder: Path, swept: list[Run]
) -> None:
    steps = []
    for cell in CELLS:
        [run], _ = discover([folder / "swept" / cell.folder])
        assert str(folder) not in run.provenance.command
        program, *words = shlex.split(run.provenance.command.replace(" --log_samples ", " "))
        given = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
        assert program == "lmms-eval" and given["limit"] == str(LIMIT) and given["output_path"] == "OUT"
        alone = {"limit": LIMIT, "log_samples": True, "output_path": str(folder / "alone" / cell.folder)}
        steps.append({**given, **alone})
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


def test_a_sweep_that_broke_off_goes_on_and_a_finished_one_shows_its_table_again(
    folder: Path, stopped: tuple[int, str, list[dict[str, Any]]], swept: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    left = stopped[2]
    assert 0 < len(left) < 3 * LIMIT and [len(run.answers) for run in swept] == [LIMIT] * 3
    made = {json.dumps(cost.seconds, sort_keys=True) for run in swept for cost in run.costs}
    assert {json.dumps(one["cost"]["seconds"], sort_keys=True) for one in left} <= made, "answers are not made again"
    told = (folder / "swept" / "harness.log").read_bytes()
    assert main([*COMMAND, "--out", str(folder / "swept")]) == 0
    assert (folder / "swept" / "harness.log").read_bytes() == told, "the harness is not started"
    shown = capsys.readouterr().out.splitlines()
    names = [line.split("|")[1].strip() for line in shown if line.startswith("| ")]
    assert names == ["method", *(cell.name for cell in CELLS)]
    assert shown[-1].startswith("! TOY: ")


def test_every_time_that_a_sweep_tells_is_utc(folder: Path, swept: list[Run]) -> None:
    begun = datetime.fromtimestamp((folder / "swept" / ".lock").stat().st_ctime, timezone.utc)
    names = [file.name for kind in ("journal_rank0", "results", "samples_*") for file in found(folder / "swept", kind)]
    stamps = [datetime.strptime(name[:15], "%Y%m%d_%H%M%S").replace(tzinfo=timezone.utc) for name in names]
    assert len(stamps) == 3 * 2 + 3 + 3
    assert max(abs(stamp - begun) for stamp in stamps) < timedelta(minutes=59)


def found(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.rglob(f"*_{kind}.json*"))


def texts(folder: Path) -> dict[str, str]:
    newest = sorted(folder.rglob("*_samples_*.jsonl"))[-1]
    rows = [json.loads(line) for line in newest.read_text().splitlines()]
    return {row["question_id"]: row["filtered_resps"][0] for row in rows}
