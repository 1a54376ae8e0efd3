"""The workflow calls commands that exist, with arguments that they take."""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.harness_files import BASE, read_board, samples, write_base, write_run

from lmms_kvtp.__main__ import COMMANDS
from lmms_kvtp.leaderboard.results import write_results

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
NAMES = ("", "_comment", "_pages")
RUNS, COMMENT, PAGES = (yaml.safe_load((WORKFLOWS / f"leaderboard{name}.yml").read_text()) for name in NAMES)
STEPS, LATER, PUBLISH = (
    [step for job in flow["jobs"].values() for step in job["steps"]] for flow in (RUNS, COMMENT, PAGES)
)
CALLS = [
    call.removesuffix(" || failed=1")
    for step in [*STEPS, *PUBLISH]
    for call in re.findall(r"^\s*(lmms-kvtp .*)$", step.get("run", ""), re.MULTILINE)
]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_understood(call):
    _, name, *arguments = shlex.split(call)
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    parser.parse_args(arguments)


def test_gates_runs_and_table_are_all_there():
    assert [shlex.split(call)[1] for call in CALLS] == ["doctor", *["sweep", "leaderboard"] * 2]


def test_no_expression_stands_inside_a_script():
    """A branch's name or a file's could hold shell commands; they come in through the environment."""
    assert not [step for step in [*STEPS, *LATER, *PUBLISH] if "${{" in step.get("run", "")]


def test_a_contributors_code_runs_without_write_permission_and_without_credentials():
    assert RUNS["permissions"] == {"contents": "read"}
    [checkout] = [step for step in STEPS if step.get("uses", "").startswith("actions/checkout")]
    assert checkout["with"]["persist-credentials"] is False
    assert not [step for step in STEPS if "token" in str(step.get("env", "")).lower()]
    assert not [step for step in LATER if step.get("uses", "").startswith("actions/checkout")]
    assert COMMENT[True]["workflow_run"]["workflows"] == [RUNS["name"]]  # YAML reads `on` as a truth value


@pytest.mark.parametrize("file", sorted(WORKFLOWS.glob("*.yml")), ids=lambda file: file.stem)
def test_no_job_that_runs_a_checkout_may_write_or_keeps_a_token(file):
    flow = yaml.safe_load(file.read_text())
    assert "pull_request_target" not in flow[True]
    for job in flow["jobs"].values():
        out = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
        assert all(step["with"]["persist-credentials"] is False for step in out)
        assert not out or "write" not in job.get("permissions", flow["permissions"]).values()


def test_the_board_that_is_published_is_the_stored_rows_and_only_its_own_job_may_publish():
    assert PAGES["permissions"] == {"contents": "read"} and "permissions" not in PAGES["jobs"]["board"]
    assert PAGES["jobs"]["publish"]["needs"] == "board"
    stored = ["leaderboard/results/**", "leaderboard/real/**"]
    assert PAGES[True]["push"] == {"branches": ["main"], "paths": stored}
    assert any("--real leaderboard/real" in call for call in CALLS)
    [sweep] = [call for call in CALLS if call.startswith("lmms-kvtp sweep --ratios")]
    page = (ROOT / "docs" / "leaderboard.md").read_text()
    assert sweep.split()[-1] in page, "the page tells the command by which the stored rows were made"


def test_a_planted_regression_fails_the_table_and_the_comment_is_written_still(tmp_path):
    write_base(tmp_path / "runs" / "full", BASE)
    write_run(tmp_path / "runs" / "random", samples(BASE))
    stored = tmp_path / "leaderboard" / "results"
    write_results(read_board(tmp_path / "runs"), stored)
    call = shlex.split(next(call for call in CALLS if "--against" in call).removeprefix("lmms-kvtp "))
    run = [sys.executable, "-m", "lmms_kvtp", *call]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == 0
    write_run(tmp_path / "runs" / "random", samples([0] * 6))
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "! random, skvqa_synth: 0.0 % now" in done.stdout
    assert run_script("Summary", tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "summary")) == 0
    assert "| random " in (tmp_path / "board" / "comment.md").read_text()


def comment(tmp_path, number: str = "7", before: str = "") -> list[str]:
    """Run the step that comments, with a `gh` that knows the pull request and an earlier comment; what it was told."""
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin" / "gh"
    gh.write_text(
        "#!/bin/sh\n"
        'echo "$@" | tr "\\n" " " >> calls; echo >> calls\n'
        f'case "$*" in "pr list"*) echo "{number}";; *paginate*) echo "{before}";; *) cp body.md sent.md;; esac\n'
    )
    gh.chmod(0o755)
    [step] = [step for step in LATER if step.get("name") == "One comment"]
    path = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SHA": "abc", "GH_REPO": "o/r"}
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=path, check=True)
    calls = tmp_path / "calls"
    return calls.read_text().splitlines() if calls.exists() else []


def test_a_comment_holds_nothing_that_is_read_as_html_or_reaches_anybody(tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "comment.md").write_text("| a | <img src=x> @maintainer ![p](http://x/y.png) & 20% |\n")
    assert comment(tmp_path)[-1].split() == ["pr", "comment", "7", "--body-file", "body.md"]
    sent = (tmp_path / "sent.md").read_text()
    assert sent.startswith("<!-- leaderboard of this pull request -->\n")
    assert "&lt;img src=x>" in sent and "@\u200bmaintainer" in sent and "! [p](" in sent and "&amp; 20%" in sent


def test_a_later_run_replaces_its_own_comment_and_no_other(tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "comment.md").write_text("| a |\n")
    _, listed, patched = comment(tmp_path, before="99")
    assert 'select(.user.login == "github-actions[bot]" and (.body | startswith("<!-- leaderboard' in listed
    assert patched.strip() == "api --method PATCH repos/o/r/issues/comments/99 -F body=@body.md"
    assert COMMENT["concurrency"]["cancel-in-progress"] is False, "two at once would both begin a comment"


@pytest.mark.parametrize(("table", "number", "calls"), [(False, "7", 0), (True, "", 1)])
def test_without_a_table_or_an_open_pull_request_nothing_is_written(tmp_path, table, number, calls):
    if table:
        (tmp_path / "board").mkdir()
        (tmp_path / "board" / "comment.md").write_text("| a |\n")
    assert len(comment(tmp_path, number)) == calls and not (tmp_path / "sent.md").exists()


def test_packages_are_cached_and_every_script_runs_in_a_test():
    for steps in (STEPS, PUBLISH):
        [python] = [step for step in steps if step.get("uses", "").startswith("actions/setup-python")]
        assert python["with"]["cache"] == "pip" and python["with"]["cache-dependency-path"] == "constraints.txt"
    names = [step.get("name", step["run"]) for step in [*STEPS, *LATER, *PUBLISH] if "run" in step]
    install = "pip install --constraint constraints.txt -e ."
    tried = ["Which components changed", "Gates", "Runs", "Table", "Summary", "One comment", install, "Runs", "Table"]
    assert sorted(names) == sorted([install, *tried])


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


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["pruners/grid.py", "pruners/mine_2.py", "pruners/none.py"], "grid,kvtp+grid,mine_2,kvtp+mine_2"),
        (["pruners/parts/trees.py"], "kvtp+prumerge,kvtp+tome,vidcom2,fastv"),
        (["scorers/aks.py", "allocators/hard.py"], "similarity/hard+random,aks/softmax+random"),
        (["layer_pruning/fastv.py", "layer_pruning/__init__.py"], "fastv"),
        (["video/index.py", "pruners/notes.md"], ""),
    ],
)
def test_changed_components_are_run_and_what_they_share_by_its_main_rows(tmp_path, files, names):
    (tmp_path / "start").write_text("1\n")
    git(tmp_path, "init", "-b", "main")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "before")
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD")
    for file in files:
        (tmp_path / "lmms_kvtp" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lmms_kvtp" / file).write_text("2\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "after")
    (tmp_path / ".ci").symlink_to(ROOT / ".ci")
    (tmp_path / "python").symlink_to(sys.executable)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GITHUB_BASE_REF": "main", "GITHUB_OUTPUT": str(tmp_path / "out")}
    assert run_script("Which components changed", tmp_path, **path) == 0
    assert (tmp_path / "out").read_text() == f"names={names}\n"


def test_gates_go_on_after_one_has_failed_and_fail_in_the_end(tmp_path):
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "lmms-kvtp"
    command.write_text('#!/bin/sh\necho "$@" >> calls\ntest "$3" != bad\n')
    command.chmod(0o755)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    assert run_script("Gates", tmp_path, check=False, PATH=path, NAMES="bad,good") == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[2] for call in calls] == ["bad", "good"]
    (tmp_path / "calls").unlink()
    assert run_script("Runs", tmp_path, PATH=path, NAMES="bad,good") == 0
    assert "--methods full,random,bad,good " in (tmp_path / "calls").read_text()


def run_script(name: str, folder: Path, check: bool = True, **environment: str) -> int:
    """Run a step as a runner of GitHub does: `bash -e`."""
    whole = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(["bash", "-e", "-c", script(name)], cwd=folder, env=whole, check=check).returncode
