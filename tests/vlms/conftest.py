"""Models that several test files share."""

from pathlib import Path

import pytest
from helpers.checkpoints import write_tiny

from lmms_kvtp.vlms.llava_video import LlavaVideo, load_llava_video


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in several shards; not to be written to."""
    return write_tiny(tmp_path_factory.mktemp("tiny"), shard_size=60_000, siglip=False)


@pytest.fixture(scope="session")
def vlm(tiny_folder: Path) -> LlavaVideo:
    """The random checkpoint, loaded."""
    return load_llava_video(str(tiny_folder))
