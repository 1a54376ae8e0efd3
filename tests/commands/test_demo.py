"""The demo's own steps; its real run is part of .ci/run."""

import pytest

from lmms_kvtp.commands.demo import METHODS
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import settings_of


@pytest.mark.parametrize("name", METHODS)
def test_every_row_of_the_demo_is_a_method(name: str) -> None:
    method = build_method(settings_of(name, 0.2), KVTP)
    assert (method.keep_ratio == 1) == (name == "full")
