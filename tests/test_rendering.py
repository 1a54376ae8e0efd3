"""Tables, and the pages they go into."""

import re

import pytest

from lmms_kvtp.rendering import (
    Written,
    as_code,
    as_csv,
    as_latex,
    as_markdown,
    between,
    first_few,
    markdown,
    visible,
    write_between,
)


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


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "![x](http://tracker.example/x.png) [y](javascript:alert(1))",
    "@everyone, see https://example.org",
    "`; rm -rf / #` `` code",
    "a | b \\| c\r\nd",
    "\x1b]0;title\x07\x1b[2J\u202etxt.exe",
    "&lt;b&gt; &amp; *bold* _em_ ~~gone~~ \\[z](u)",
    "# heading",
    "\ud800",
    "\x9b31m\x9d0;title\x9c",
    "</script><script>alert(1)</script>",
    r"\input{/etc/passwd} $x^2$ 5% a_b & #1 {~}",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_hostile_text_as_it_is(text):
    line = as_markdown(text)
    assert not re.search(
        r"(?<!\\)(?:\\\\)*(?:[<`*|]|\][(\[:])", line
    )  # no tag, image, link, code, emphasis or cell begins
    assert not re.search(r"@\w|://|[\x00-\x1f\x7f-\x9f\u202e\ud800]|^#", line)
    shown = re.sub(r"\\(.)", r"\1", line).replace("\u200b", "")
    assert shown == re.sub(r"\\(.)", r"\1", as_markdown(shown)).replace("\u200b", "")
    code = as_code(text)
    fence = re.match("`+", code).group()
    assert code.endswith(fence) and fence not in code[len(fence) : -len(fence)]


def test_plain_text_stays_readable_in_markdown():
    for text in (
        "KVTP + PruMerge, 20%",
        "skvqa_synth_quick",
        "-3.0 ± 3.6",
        "-",
        "a/b+c",
        "[-1.5, 2]",
        "R&D",
        "x_y=1 (z)",
    ):
        assert as_markdown(text) == text


def test_what_is_markdown_already_stays_but_keeps_to_its_cell():
    assert as_markdown(Written("`a` | **b**\nc")) == "`a` \\| **b** c"
    assert markdown(["a"], [[as_code("x|y")]]).splitlines()[2] == "| `x\\|y` |"


RUN = ("=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", " \t=1", "\x00=1", "\uff1d1", "\ufeff=1")


@pytest.mark.parametrize("text", RUN)
def test_a_spreadsheet_runs_nothing(text):
    assert as_csv(text) == f"'{text}"
    assert as_csv("kvtp+prumerge 20%") == "kvtp+prumerge 20%"


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_and_terminals_get_no_command(text):
    printed = as_latex(text)
    bare = re.sub(r"\\text[a-z]+\{\}|\{[\[*]\}|\\[&%$#_{}]", "", printed)
    assert not re.search(r"[\\$%#&_{}~^<>|`\[*\x1b]", bare)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", visible(text))
    assert visible("tab\tand\nline") == "tab\tand\nline"
