"""Shared by all tests: shapes are checked on every call, hypothesis is repeatable and has no deadlines."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from stub import Stub

install_import_hook("lmms_kvtp", "beartype.beartype")
settings.register_profile("default", deadline=None, derandomize=True, print_blob=False, max_examples=50)
settings.load_profile("default")


@pytest.fixture
def start_stub(tmp_path: Path) -> Iterator[Callable[..., Stub]]:
    """Starts servers that end with the test."""
    started: list[Stub] = []

    def start(delay: float = 0.0) -> Stub:
        started.append(Stub(tmp_path / f"requests{len(started)}.jsonl", delay))
        return started[-1]

    yield start
    for stub in started:
        stub.stop()
