"""The demo's own steps; its real run is part of .ci/run."""

import pytest

from lmms_kvtp.commands.demo import METHODS, write_between
from lmms_kvtp.method import KVTP, build_method


def test_a_table_goes_between_its_markers_again_and_again(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- demo -->\nold\n<!-- /demo -->\nbelow\n")
    write_between(page, "| new |")
    write_between(page, "| newer |")
    assert page.read_text() == "above\n<!-- demo -->\n| newer |\n<!-- /demo -->\nbelow\n"


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- demo -->\n")
    with pytest.raises(ValueError, match="has no line <!-- demo --> followed by <!-- /demo -->"):
        write_between(page, "| new |")
    assert page.read_text() == "above\n<!-- demo -->\n"


@pytest.mark.parametrize("name", METHODS)
def test_every_row_of_the_demo_is_a_method(name):
    settings = dict(pair.split("=") for pair in METHODS[name].split(","))
    method = build_method({"keep_ratio": "0.2", **settings}, KVTP)
    assert (method.keep_ratio == 1) == (name == "all tokens")
