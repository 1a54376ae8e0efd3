"""Fingerprints change with what they stand for, and with nothing else."""

import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from lmms_kvtp.run import source as fingerprint
from lmms_kvtp.run.source import tree
from lmms_kvtp.shipped import shipped_folder


def test_settings_that_name_files_are_found_wherever_they_stand(tmp_path):
    (tmp_path / "head.pt").write_bytes(b"weights")
    settings = {"scorer": {"checkpoint": str(tmp_path / "head.pt"), "name": "kvtp"}, "encoder": ["google/none", 3]}
    assert set(fingerprint.of_settings(settings)) == {str(tmp_path / "head.pt")}


def test_a_folder_without_a_slash_is_found_where_a_setting_names_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("predictor", "main"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "head").write_text("1")
    settings = {"scorer": {"checkpoint": "predictor"}, "encoder": {"pretrained": "google/none", "revision": "main"}}
    before = fingerprint.of_settings(settings)
    assert set(before) == {"predictor"}  # a branch of the hub is no folder here
    (tmp_path / "predictor" / "head").write_text("2")
    assert fingerprint.of_settings(settings) != before


@pytest.mark.parametrize("part", [{"checkpoint": "tiny"}, {"pretrained": "tiny"}, {"pretrained": "tiny_shared"}])
def test_shipped_weights_count_where_a_part_names_them(part, tmp_path, monkeypatch):
    shutil.copytree(shipped_folder("predictors"), tmp_path / "predictors")
    monkeypatch.setattr(fingerprint, "shipped_folder", tmp_path.joinpath)
    before = fingerprint.of_settings({"scorer": part})
    (tmp_path / "predictors" / "tiny_shared" / "fusion.json").write_text("{}")
    name = f"shipped {next(iter(part.values()))}"  # not the key of a model of that name
    assert set(before) == {name} and fingerprint.of_settings({"scorer": part}) != before


def test_weights_that_were_trained_in_their_middle_are_others(tmp_path):
    weights = {f"layer_{number:02}": torch.zeros(2**15) for number in range(64)}
    save_file(weights, tmp_path / "model.safetensors")
    before = fingerprint.of_weights(tmp_path)
    for trained in ("layer_07", "layer_32", "layer_50"):
        save_file({**weights, trained: torch.ones(2**15)}, tmp_path / "model.safetensors")
        assert fingerprint.of_weights(tmp_path) != before
    save_file(weights, tmp_path / "model.safetensors")
    assert fingerprint.of_weights(tmp_path) == before


def test_source_follows_the_imports_of_a_package_and_leaves_others_out(tmp_path, monkeypatch):
    package = tmp_path / "kvtp_their_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pruner.py").write_text("def f():\n    from kvtp_their_pkg.helper import g\n    return g()\n")
    (package / "helper.py").write_text("import json\ndef g():\n    return 1\n")
    (package / "unused.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = fingerprint.of_source(["kvtp_their_pkg.pruner"])
    assert set(found) == {"kvtp_their_pkg.pruner", "kvtp_their_pkg.helper"}
    (package / "helper.py").write_text("import json\ndef g():\n    return 2\n")
    edited = fingerprint.of_source(["kvtp_their_pkg.pruner"])
    assert found["kvtp_their_pkg.helper"] != edited["kvtp_their_pkg.helper"]
    assert found["kvtp_their_pkg.pruner"] == edited["kvtp_their_pkg.pruner"]
    assert "kvtp_their_pkg.unused" not in sys.modules


def test_source_reads_relative_imports(tmp_path, monkeypatch):
    package = tmp_path / "kvtp_relative_pkg"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text("y = 1\n")
    (package / "inner" / "__init__.py").write_text("from .one import x\n")
    (package / "inner" / "one.py").write_text("from ..base import y\nx = y\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = fingerprint.of_source(["kvtp_relative_pkg.inner"])
    assert {"kvtp_relative_pkg.inner", "kvtp_relative_pkg.inner.one", "kvtp_relative_pkg.base"} <= set(found)


def test_source_of_a_pruner_has_its_interface_and_not_its_neighbours():
    found = fingerprint.of_source(["lmms_kvtp.pruners.prumerge", "lmms_kvtp.pipeline"])
    assert {"lmms_kvtp.pruners.prumerge", "lmms_kvtp.pruners.base", "lmms_kvtp.method"} <= set(found)
    assert not {"lmms_kvtp.pruners.random", "lmms_kvtp.embedded.cache", "lmms_kvtp.harness.plugin"} & set(found)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "lmms_kvtp").mkdir(parents=True)
    (folder / "docs").mkdir()
    (folder / "lmms_kvtp" / "a.py").write_text("1\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *command], check=True)
    return folder


def test_a_clean_checkout_has_its_commit(checkout):
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert tree(checkout) == {"commit": head.stdout.strip(), "dirty": False}


@pytest.mark.parametrize("name", ["lmms_kvtp/a.py", "lmms_kvtp/new.py"])
def test_changed_and_new_code_is_dirty(checkout, name):
    (checkout / name).write_text("2\n")
    assert tree(checkout)["dirty"] is True


def test_changes_elsewhere_are_not(checkout):
    (checkout / "docs" / "page.md").write_text("words\n")
    assert tree(checkout)["dirty"] is False


def test_an_installed_package_has_no_tree(tmp_path):
    assert tree(tmp_path) == {}


def test_a_damaged_checkout_says_nothing(tmp_path):
    (tmp_path / ".git").mkdir()
    assert tree(tmp_path) == {}
