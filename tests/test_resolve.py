"""Names of components."""

import pytest

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
