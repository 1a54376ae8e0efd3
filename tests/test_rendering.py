"""Tables, and the pages they go into."""

import pytest

from lmms_kvtp.rendering import between, first_few, markdown, write_between


def test_cells_are_aligned_and_cannot_break_the_table():
    assert markdown(["a", "bb"], [["x|y", "1"], ["two\nlines", ""]]).splitlines() == [
        "| a         | bb |",
        "|-----------|----|",
        "| x\\|y      | 1  |",
        "| two lines |    |",
    ]


def test_the_first_few_are_listed_and_the_others_counted():
    assert first_few(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert first_few(["a", "b", "c"], 1, "\n  ") == "a\n  and 2 more"
    assert first_few(["a", "b"], 2) == "a, b"


def test_a_table_goes_between_its_markers_again_and_again(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- demo -->\nold\n<!-- /demo -->\nbelow\n")
    write_between(page, "| new |", "demo")
    write_between(page, "| newer |", "demo")
    assert page.read_text() == "above\n<!-- demo -->\n| newer |\n<!-- /demo -->\nbelow\n"
    assert between(page, "demo")[1] == "| newer |\n"


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("above\n<!-- demo -->\n")
    with pytest.raises(ValueError, match="has no line <!-- demo --> followed by <!-- /demo -->"):
        write_between(page, "| new |", "demo")
    assert page.read_text() == "above\n<!-- demo -->\n"
