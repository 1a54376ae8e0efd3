"""Damaged inputs of every kind end in what they hold, or in one documented error, soon and in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_inputs.py"
KINDS = ("index", "answers", "model_args", "checkpoints", "predictors", "results")


def fuzz(kind, count, seed):
    command = [sys.executable, str(SCRIPT), "--kind", kind, "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = json.loads(done.stdout).values()
    assert sum(found["results"].values()) == count
    return found["results"]


@pytest.mark.parametrize(("kind", "count"), [("index", 400), ("answers", 400), ("results", 25)])
def test_some_damaged_inputs_end_as_documented(kind, count):
    assert fuzz(kind, count, seed=7)["read"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_inputs_end_as_documented(kind):
    assert fuzz(kind, 2000, seed=8)["documented error" if kind != "results" else "read"] > 1000
