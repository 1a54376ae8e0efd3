"""Models, prompts and the plain loop of tests/helpers/decoders.py, as fixtures."""

import pytest
from helpers import decoders


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
