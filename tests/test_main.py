"""The command line."""

import logging
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from helpers.harness_files import write_pair

import lmms_kvtp
from lmms_kvtp.__main__ import COMMANDS, main
from lmms_kvtp.method import PARTS
from lmms_kvtp.presets import names_of


def test_list_shows_every_component_with_its_paper(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for part in PARTS:
        assert all(f"\n  {name}\n" in shown for name in names_of(part))
    assert "LLaVA-PruMerge, arXiv 2403.15388" in shown


def test_list_of_one_part_shows_no_other(capsys):
    main(["list", "pruner"])
    shown = capsys.readouterr().out
    assert "\n  tome\n" in shown
    assert "\n  softmax\n" not in shown


def test_a_reader_that_stops_reading_is_no_error(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody_reads:
        monkeypatch.setattr("sys.stdout", nobody_reads)
        assert main(["list", "allocator"]) == 0
        nobody_reads.write("at the end of the process")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert COMMANDS[name][1] in " ".join(capsys.readouterr().out.split())


def test_no_help_and_no_listing_of_shipped_components_imports_torch():
    code = """
import argparse, importlib, sys
from lmms_kvtp.__main__ import COMMANDS, main
for module, _ in COMMANDS.values():
    importlib.import_module(module).add_arguments(argparse.ArgumentParser())
    assert "torch" not in sys.modules, module
main(["list"])
main(["list", "pruner", "tome"])
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "pruner.protected=" in run.stdout or "pruner=tome" in run.stdout


def test_operations_of_a_known_model_are_counted_without_loading_transformers():
    code = """
import sys
from lmms_kvtp.__main__ import main
models = ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", "OpenGVLab/InternVL3-1B-hf")
for model in ("llava-video-7b", *models):
    for method in ("kvtp+prumerge", "vidcom2", "fastv"):
        main(["flops", "--model", model, "--method", method])
main(["flops"])
print(sorted({"transformers", "accelerate", "huggingface_hub", "scipy", "av"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (
        run.stdout.count("\n| prefill ") == 12
        and "THOP, no helper" in run.stdout
        and run.stdout.splitlines()[-1] == "[]"
    )


def test_ctrl_c_ends_in_two_lines(capsys, monkeypatch):
    def stopped(arguments):
        raise KeyboardInterrupt("3 answers are in runs; the same command goes on there")

    monkeypatch.setattr("lmms_kvtp.commands.reproduce.main", stopped)
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "table2"])
    assert left.value.code == 130
    told = "lmms-kvtp reproduce: stopped\n3 answers are in runs; the same command goes on there"
    assert capsys.readouterr().err.strip() == told


def test_versions_are_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    [told] = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0
    assert told.startswith(f"lmms-kvtp {lmms_kvtp.__version__}, python 3") and f"torch {version('torch')}" in told


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["lst"])
    assert stopped.value.code == 2
    assert "list" in capsys.readouterr().err


def in_place(folder, *arguments, **environment):
    """Run a command in a folder, which `rm` in the environment removes before it starts."""
    command = f'{environment.pop("before", ":")}; exec "$0" -P -m lmms_kvtp "$@"'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, *map(str, arguments)],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, check=False,
    )  # fmt: skip


def test_the_c_locale_loses_signs_and_not_the_table(tmp_path):
    write_pair(tmp_path)
    run = in_place(tmp_path, "leaderboard", ".", "--out", "page", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (run.returncode, run.stderr) == (0, b"")
    assert b"| random " in run.stdout and b" ? " in run.stdout
    assert "±" in (tmp_path / "page" / "leaderboard.md").read_text(encoding="utf-8")


def test_a_deleted_working_folder_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    run = in_place(tmp_path / "gone", "leaderboard", "runs", "--out", "page", before="rmdir ../gone")
    assert run.returncode == 2
    assert run.stderr.decode().splitlines() == ["lmms-kvtp leaderboard: the working folder is gone; go to another"]


def test_messages_command_no_terminal(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["leaderboard", str(tmp_path / "\x1b]0;title\x07"), "--out", str(tmp_path)])
    assert "\x1b" not in (told := capsys.readouterr().err)
    assert r"\x1b]0;title\x07" in told


def test_names_of_files_command_no_terminal(tmp_path, capsys, monkeypatch):
    index = tmp_path / "\x1b]0;title\x07.jsonl"
    index.write_text("{}\n")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    assert main(["skvqa", "validate", str(index)]) == 1
    logging.getLogger("lmms_kvtp.video").info("%s is damaged", index)
    for told in capsys.readouterr():
        assert r"\x1b]0;title\x07.jsonl" in told and not set(told) & {"\x1b", "\x07"}
