"""Names of components."""

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.allocators.base import BudgetAllocator
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.resolve import available, resolve


def test_the_file_name_is_the_name():
    assert resolve("lmms_kvtp.pruners", "random", TokenPruner).__module__ == "lmms_kvtp.pruners.random"
    assert {"none", "random", "prumerge", "tome"} <= set(available("lmms_kvtp.pruners"))


def test_base_and_private_files_are_no_components():
    assert not [name for name in available("lmms_kvtp.pruners") if name == "base" or name.startswith("_")]


def test_a_wrong_name_gets_near_matches_and_all_names():
    with pytest.raises(LookupError, match=r"named 'prunmerge'; did you mean prumerge.*available: .*tome"):
        resolve("lmms_kvtp.pruners", "prunmerge", TokenPruner)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(LookupError, match=r"no TokenPruner at 'nowhere\.at_all:Thing'"):
        resolve("lmms_kvtp.pruners", "nowhere.at_all:Thing", TokenPruner)


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(
        LookupError, match=r"'lmms_kvtp.allocators.uniform:EqualBudgets' is .*, no TokenPruner; name a class"
    ):
        resolve("lmms_kvtp.pruners", "lmms_kvtp.allocators.uniform:EqualBudgets", TokenPruner)
    with pytest.raises(LookupError, match="base:BudgetAllocator' is an abstract BudgetAllocator; it lacks allocate"):
        resolve("lmms_kvtp.allocators", "lmms_kvtp.allocators.base:BudgetAllocator", BudgetAllocator)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a distribution with entry points of pruners, by name and value."""

    def install(entries: dict[str, str], **modules: str) -> None:
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / "somebodys-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[lmms_kvtp.pruners]\n{lines}")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


MINE = "from lmms_kvtp.pruners.random import RandomTokens\n\n\nclass Mine(RandomTokens):\n    pass\n"


def test_two_components_of_one_name_are_refused_with_both_origins(package):
    package({"tome": "somebodys_own:Mine"}, somebodys_own=MINE)
    with pytest.raises(LookupError, match=r"named 'tome': lmms_kvtp\.pruners\.tome, somebodys_own:Mine; say which"):
        resolve("lmms_kvtp.pruners", "tome", TokenPruner)
    assert resolve("lmms_kvtp.pruners", "somebodys_own:Mine", TokenPruner).__name__ == "Mine"


def test_an_entry_point_that_its_package_left_behind_is_named_with_the_way_out(package):
    package({"orphan": "somebodys_gone.parts:Mine"})
    told = r"no TokenPruner at 'somebodys_gone.parts:Mine': .*No module named 'somebodys_gone'; install its package, or"
    with pytest.raises(LookupError, match=told):
        resolve("lmms_kvtp.pruners", "orphan", TokenPruner)


def test_a_component_that_does_not_import_is_named_with_its_error_and_the_others_are_listed(package, capsys):
    package(
        {"halfdone": "somebodys_wip:Mine", "fine": "somebodys_good:Mine"}, somebodys_wip="1 / 0", somebodys_good=MINE
    )
    with pytest.raises(LookupError, match="no TokenPruner at 'somebodys_wip:Mine': ZeroDivisionError"):
        resolve("lmms_kvtp.pruners", "halfdone", TokenPruner)
    assert main(["list", "pruner"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "halfdone cannot be used: no TokenPruner at 'somebodys_wip:Mine': ZeroDivisionError" in told
    assert " fine " in told and " tome " in told
