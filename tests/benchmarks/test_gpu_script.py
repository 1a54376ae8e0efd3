"""The script for GPUs runs all of its steps on a CPU, at tiny sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def run(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": python, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), "--smoke", str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_step_runs_and_has_its_place_in_the_results(tmp_path):
    done = run(tmp_path, sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((tmp_path / "results.json").read_text())["steps"]
    names = ["first_token", "pruners", "layer_pruning", "batches", "memory", "tests"]
    assert [step["name"] for step in steps] == names
    assert all(step["exit_code"] == 0 and step["found"] for step in steps)
    assert "kvtp+prumerge 20%, shared" in (tmp_path / "results.md").read_text()


def test_its_limits_of_time_leave_it_nine_minutes():
    steps = [line.split() for line in SCRIPT.read_text().splitlines() if line.strip().startswith("step ")]
    real = [int(words[2]) for words in steps if words[2].isdigit()][len(steps) // 2 :]
    assert len(real) == 6 and sum(real) <= 540
