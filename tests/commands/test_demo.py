"""The demo's own steps; its real run is part of .ci/run."""

import pytest

from lmms_kvtp.commands.demo import METHODS
from lmms_kvtp.method import KVTP, build_method


@pytest.mark.parametrize("name", METHODS)
def test_every_row_of_the_demo_is_a_method(name):
    settings = dict(pair.split("=") for pair in METHODS[name].split(","))
    method = build_method({"keep_ratio": "0.2", **settings}, KVTP)
    assert (method.keep_ratio == 1) == (name == "all tokens")
