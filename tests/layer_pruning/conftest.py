"""Models, prompts and the plain loop of tests/decoders.py, as fixtures."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("decoders", Path(__file__).parents[1] / "decoders.py")
decoders = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(decoders)


@pytest.fixture(scope="session", params=["eager", "sdpa"])
def model(request):
    return decoders.build(request.param)


@pytest.fixture(scope="session")
def llm():
    """Builds a model: llm("eager")."""
    return decoders.build


@pytest.fixture(scope="session")
def make_prompt():
    return decoders.prompt_of


@pytest.fixture(scope="session")
def reference():
    """The decoder loop: reference.run, reference.attention."""
    return decoders


@pytest.fixture(scope="session")
def fixed_stage():
    return decoders.fixed
