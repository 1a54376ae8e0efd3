"""`lmms-kvtp list` and the page that it fills."""

import json
from pathlib import Path

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.list import HEADER, TABLE, components, components_table, details, facts_table, read_facts
from lmms_kvtp.method import PARTS
from lmms_kvtp.presets import names_of
from lmms_kvtp.rendering import between

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def row(part: str, name: str) -> dict[str, str]:
    [line] = [line for line in components_table(part).splitlines() if line.startswith(f"| `{name}` ")]
    return dict(zip(HEADER, [cell.strip() for cell in line.strip("|").split("|")], strict=True))


def test_the_page_is_what_the_code_says():
    assert between(PAGE, "components")[1].split() == components().split(), "run: lmms-kvtp list --into docs/methods.md"


def test_the_command_renews_a_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lmms_kvtp.commands.list.TABLE", tmp_path / "list.json")  # not the package's own
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- components -->\nold\n<!-- /components -->\nbelow\n")
    facts_table.cache_clear()
    try:
        assert main(["list", "--into", str(page)]) == 0
    finally:
        facts_table.cache_clear()
    assert page.read_text() == f"above\n<!-- components -->\n{components()}\n<!-- /components -->\nbelow\n"
    assert json.loads((tmp_path / "list.json").read_text()) == json.loads(TABLE.read_text())
    assert capsys.readouterr().out == ""


def test_the_table_of_facts_is_what_the_classes_say():
    known = {part: {name: read_facts(part, name) for name in names_of(part)} for part in PARTS}
    assert json.loads(TABLE.read_text()) == known, "run: lmms-kvtp list --into docs/methods.md"


def test_a_component_whose_file_has_changed_is_read_anew(tmp_path, monkeypatch):
    known = json.loads(TABLE.read_text())
    known["pruner"]["grid"] |= {"source": "of old", "doc": "Something else."}
    known["pruner"]["tome"]["doc"] = "As it stands in the table."
    (tmp_path / "list.json").write_text(json.dumps(known))
    monkeypatch.setattr("lmms_kvtp.commands.list.TABLE", tmp_path / "list.json")
    facts_table.cache_clear()
    try:
        assert "Something else." not in details("pruner", "grid", 80)
        assert "As it stands in the table." in details("pruner", "tome", 80)
    finally:
        facts_table.cache_clear()


@pytest.mark.parametrize("width", [60, 100])
def test_the_terminal_shows_every_component_with_its_facts_in_lines_that_fit(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= max(width, 88)  # but for the last line, which is there to be copied
    text = " ".join(" ".join(lines).split())
    for part in PARTS:
        assert f"{part}=NAME" in lines
        assert {f"  {name}" for name in names_of(part)} <= set(lines)
    assert (
        "prumerge Keeps the tokens of highest attention and adds to each its neighbours, weighted by their attention. "
        "paper: LLaVA-PruMerge, arXiv 2403.15388; stage: before the language model; reads: keys, probe_attention; "
        "query-aware: no; training-free: yes; exact: each frame prumerge_plus" in text
    )


def test_one_component_is_shown_with_its_settings_and_what_they_mean(capsys):
    assert main(["list", "pruner", "simplecluster"]) == 0
    text = capsys.readouterr().out
    assert "Source: SimpleCluster" in text and "exact: the total" in text
    assert "pruner.mass='token'\n  What a token weighs when its cluster moves: 1, or the budget of its frame." in text
    assert main(["list", "pruner", "flashvid"]) == 0
    text = capsys.readouterr().out  # fields of the base, too
    assert "pruner.scenes=8\n  Least number of scenes, where there are as many frames." in text


def test_every_component_shows_its_settings():
    for part in PARTS:
        for name in names_of(part):
            assert f"{part}={name}" in details(part, name, 80)


def test_a_word_is_shown_as_the_component_that_it_stands_for_with_its_settings():
    shown = details("scorer", "similarity", 100)
    assert "A word for:\n\nscorer=kvtp\n" in shown and "\nscorer.fusion=False\n" in shown
    assert "\nencoder: tower\n" in details("scorer", "shared", 100)
    assert row("scorer", "similarity")["training-free"] == "yes" and row("scorer", "kvtp")["training-free"] == "no"


def test_an_unknown_component_is_answered_with_a_near_one(capsys):
    with pytest.raises(SystemExit):
        main(["list", "pruner", "prunmerge"])
    assert "did you mean prumerge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "name", "expected"),
    [
        ("pruner", "cdpruner", {"reads": "patch_text, text", "query-aware": "yes", "exact": "each frame"}),
        ("pruner", "evs", {"reads": "-", "query-aware": "no", "exact": "the total", "training-free": "yes"}),
        ("pruner", "simplecluster", {"more": "identity at 100 %, merges all", "paper": "SimpleCluster, 2026"}),
        ("scorer", "kvtp", {"training-free": "no", "query-aware": "yes", "stage": "once per question"}),
        ("scorer", "vcast", {"reads": "tokens", "query-aware": "no", "paper": "V-CAST, arXiv 2603.27650"}),
        ("encoder", "open_clip", {"reads": "image", "stage": "once per video", "exact": "-"}),
        ("allocator", "kvtp_release", {"exact": "no", "query-aware": "yes"}),
        ("allocator", "aks", {"exact": "yes", "more": "knows the order of frames"}),
        ("layer_pruning", "pyramiddrop", {"stage": "before layer 7, 14, 21", "exact": "rounded"}),
        ("layer_pruning", "none", {"stage": "-", "query-aware": "no", "exact": "-"}),
    ],
)
def test_a_row_says_what_the_component_declares(part, name, expected):
    found = row(part, name)
    assert {column: found[column] for column in expected} == expected
