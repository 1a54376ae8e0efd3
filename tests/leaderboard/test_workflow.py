"""The workflow calls commands that exist, with arguments that they take."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from lmms_kvtp.__main__ import COMMANDS

FILE = Path(__file__).parents[2] / ".github" / "workflows" / "leaderboard.yml"
STEPS = [step for job in yaml.safe_load(FILE.read_text())["jobs"].values() for step in job["steps"]]
CALLS = [call for step in STEPS for call in re.findall(r"^\s*(lmms-kvtp .*)$", step.get("run", ""), re.MULTILINE)]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_understood(call):
    _, name, *arguments = shlex.split(call)
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    parser.parse_args(arguments)


def test_gates_runs_and_table_are_all_there():
    assert [shlex.split(call)[1] for call in CALLS] == ["doctor", "doctor", "sweep", "leaderboard"]


def test_no_expression_stands_inside_a_script():
    """A branch's name or a file's could hold shell commands; they come in through the environment."""
    assert not [step for step in STEPS if "${{" in step.get("run", "")]
