"""A random checkpoint and a small benchmark, written once."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def module_at(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return module_at("checkpoints").write_tiny(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def lookalike() -> ModuleType:
    return module_at("lookalike")
