"""The workflow calls commands that exist, with arguments that they take."""

import argparse
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from lmms_kvtp.__main__ import COMMANDS

FILE = Path(__file__).parents[2] / ".github" / "workflows" / "leaderboard.yml"
STEPS = [step for job in yaml.safe_load(FILE.read_text())["jobs"].values() for step in job["steps"]]
CALLS = [
    call.removesuffix(" || failed=1")
    for step in STEPS
    for call in re.findall(r"^\s*(lmms-kvtp .*)$", step.get("run", ""), re.MULTILINE)
]


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


def test_what_follows_a_step_that_may_fail_says_that_it_runs_then():
    """A condition without a status function holds only while everything has passed."""
    names = [step.get("id") or step.get("name") for step in STEPS]
    late = [step for step in STEPS[names.index("Gates") + 1 :]]
    assert len(late) == 4
    assert all("!cancelled()" in step["if"] for step in late)


def script(name: str) -> str:
    [step] = [step for step in STEPS if step.get("name") == name]
    return step["run"]


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_changed_pruners_are_found_and_helpers_are_not(tmp_path):
    pruners = tmp_path / "lmms_kvtp" / "pruners"
    pruners.mkdir(parents=True)
    (pruners / "grid.py").write_text("1\n")
    (pruners / "tome.py").write_text("1\n")
    git(tmp_path, "init", "-b", "main")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "before")
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD")
    for name in ("base", "none", "__init__", "_bags", "mine_2", "grid"):
        (pruners / f"{name}.py").write_text("2\n")
    (pruners / "tome.py").unlink()
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "after")
    run_script("Which pruners changed", tmp_path, GITHUB_BASE_REF="main", GITHUB_OUTPUT=str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "names=grid,mine_2\n"


def test_gates_go_on_after_one_has_failed_and_fail_in_the_end(tmp_path):
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "lmms-kvtp"
    command.write_text('#!/bin/sh\necho "$@" >> calls\ntest "$3" != bad\n')
    command.chmod(0o755)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    assert run_script("Gates", tmp_path, check=False, PATH=path, NAMES="bad,good") == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[2] for call in calls] == ["bad", "kvtp+bad", "good", "kvtp+good"]
    (tmp_path / "calls").unlink()
    assert run_script("Runs", tmp_path, PATH=path, NAMES="bad,good") == 0
    assert "--methods full,random,bad,good,kvtp+bad,kvtp+good " in (tmp_path / "calls").read_text()


def run_script(name: str, folder: Path, check: bool = True, **environment: str) -> int:
    """Run a step as a runner of GitHub does: `bash -e`."""
    whole = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(["bash", "-e", "-c", script(name)], cwd=folder, env=whole, check=check).returncode
