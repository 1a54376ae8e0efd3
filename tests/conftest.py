"""Shared by all tests: shapes are checked on every call, hypothesis is repeatable and has no deadlines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.stub import Stub
from hypothesis import settings
from jaxtyping import install_import_hook
from loguru import logger

install_import_hook(["lmms_kvtp", "benchmarks.embedded_model"], "beartype.beartype")
settings.register_profile("default", deadline=None, derandomize=True, print_blob=False, max_examples=50)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def every_message_is_heard() -> None:
    """`lmms-kvtp check` silences the harness for the rest of its process, which here has other tests to come."""
    logger.enable("lmms_eval")


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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint, written once."""
    from helpers import checkpoints  # after the import hook

    return checkpoints.write_tiny(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in several shards, without a SigLIP; not to be written to."""
    from helpers import checkpoints

    return checkpoints.write_tiny(tmp_path_factory.mktemp("tiny"), shard_size=60_000, siglip=False)


@pytest.fixture(scope="session")
def vlm(tiny_folder: Path) -> Any:
    """The model of `tiny_folder`."""
    from lmms_kvtp.vlms.llava_video import load_llava_video

    return load_llava_video(str(tiny_folder))


@pytest.fixture(scope="session")
def lookalike() -> ModuleType:
    """What writes small benchmarks."""
    from helpers import lookalike

    return lookalike
