"""What results say of the commit that made them."""

import subprocess

import pytest

from lmms_kvtp.run.source import tree


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
