"""The random model that is examined."""

import pytest
from helpers.checkpoints import write_tiny

from lmms_kvtp.api import Model
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Model:
    folder = write_tiny(tmp_path_factory.mktemp("models") / "random")
    return Model(load_llava_video(str(folder), LoadOptions(device="cpu", attn_implementation="eager")))
