"""Functions that wait for an import, and leave no trace of having waited."""

import importlib
import sys

import pytest

from lmms_kvtp.harness.after_import import call_after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that nobody has imported."""
    name = f"kvtp_waits_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield name
    sys.modules.pop(name, None)


def test_the_hook_runs_behind_the_modules_own_code(module):
    seen = []
    call_after_import({module: lambda loaded: seen.append(loaded.value)})
    assert seen == []
    importlib.import_module(module)
    assert seen == [1]


def test_a_module_that_is_there_already_gets_its_hook_now(module):
    importlib.import_module(module)
    seen = []
    call_after_import({module: lambda loaded: seen.append(loaded.value)})
    assert seen == [1]


def test_the_module_looks_as_if_nobody_had_waited(module):
    call_after_import({module: lambda loaded: None})
    hooked = importlib.import_module(module)
    kind = type(hooked.__loader__).__name__
    assert kind == type(hooked.__spec__.loader).__name__ == "SourceFileLoader"


def test_waiting_twice_calls_once(module):
    seen = []
    for _ in range(2):
        call_after_import({module: lambda loaded: seen.append(loaded.value)})
    importlib.import_module(module)
    assert seen == [1]


def test_looking_for_the_module_does_not_use_the_hook_up(module):
    seen = []
    call_after_import({module: lambda loaded: seen.append(loaded.value)})
    importlib.util.find_spec(module)
    importlib.import_module(module)
    assert seen == [1]


def test_other_modules_are_left_alone(module):
    call_after_import({module: lambda loaded: None})
    assert sys.meta_path[0].find_spec("json") is None
