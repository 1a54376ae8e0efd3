"""Processes that are stopped or killed, and a disk that is full, lose nothing: the loops of `benchmarks/faults.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import SMALL, mounted

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"
LOOPS = ("stops", "kills", "run-kills", "sweep-kills", "build-kills")


def faults(*arguments, before=()):
    done = subprocess.run(
        [*before, sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    [found] = json.loads(done.stdout).values()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_lost_by_processes_that_are_stopped_or_killed(loop):
    found = faults(f"--{loop}", "4", "--seed", "9")
    assert found["held"]
    assert found.get("struck", 0) + found.get("killed", 0) >= 4


@pytest.mark.slow
def test_nothing_is_lost_where_the_disk_is_full(tmp_path):
    found = faults("--full", str(tmp_path), before=mounted(SMALL, tmp_path))
    assert len(found["places"]) == 7
