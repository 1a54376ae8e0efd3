"""The pages name every setting, with the default that it has, and only flags that there are."""

import argparse
import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest

from lmms_kvtp.__main__ import COMMANDS
from lmms_kvtp.method import KVTP, PREDICTOR, Method
from lmms_kvtp.run.options import GROUPS, RENAMED

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob("tasks/*/README.md")]
OWNERS = {f.name: (group, f.name) for group, options in GROUPS.items() for f in fields(options)} | RENAMED
SETTINGS = sorted({*OWNERS} - {"dtype", "newlines", "video_fps"})
"""As `--model_args` has them; `video_fps` is `fps` in command lines of the stock wrapper."""


def default_of(name: str) -> str:
    if name in KVTP or name == PREDICTOR:
        return KVTP.get(name, "none; `pretrained=tiny` has its own")
    if name == "positions":
        return str(next(f.default for f in fields(Method) if f.name == name))
    group, field = OWNERS[name]
    value = getattr(GROUPS[group](), field)
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def test_every_setting_is_on_a_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in SETTINGS if not re.search(rf"(`|--){name}\b|\b{name}=", text)] == []


def test_the_readme_has_the_defaults_of_the_code() -> None:
    table = re.search(r"\| setting \| meaning \| default \|\n\|.*\n((?:\|.*\n)+)", PAGES[0].read_text())
    assert table
    checked = []
    for line in table[1].splitlines():
        names, _, defaults = [cell.strip() for cell in line.strip("|").split(" | ")]
        named = re.findall(r"`([^`]+)`", names)
        if named in (["<part>.<field>"], ["method"]):
            continue
        told = [text.partition(":")[0].strip(" `") for text in defaults.split(", ")]
        if named == ["layer_pruning"]:
            assert told == ["none"]
            continue
        assert told == [default_of(name) for name in named], line
        checked += named
    assert len(checked) > 15


def test_the_readme_ranks_no_toy_rows() -> None:
    toy = PAGES[0].read_text().partition("<!-- demo -->")[2].partition("## Install")[0]
    assert "regression board" in toy and not re.search(
        r"\b(best|wins?|winners?|beats?|outperforms?|superior|stands? above)\b", toy
    )
    for table in re.findall(r"((?:^\|.*\n)+)", toy, re.M):
        scores = [float(score) for score in re.findall(r"^\|[^±]*\| (\d+\.\d) ± ", table, re.M)]
        ordered = sorted(scores)
        assert len(scores) > 5 and scores not in (ordered, ordered[::-1])


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """Of a command and all that stands below it."""
    found: set[str] = set()
    for action in parser._actions:
        found |= {*action.option_strings}
        if isinstance(action, argparse._SubParsersAction):
            found |= {flag for below in action.choices.values() for flag in flags(below)}
    return found


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_flags_on_the_pages_exist(command: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    known, shown = flags(parser), []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for rest in re.findall(rf"(?:lmms-kvtp|-m lmms_kvtp) {command}\b([^`\n#]*)", text):
            used = {*re.findall(r"(?<!\S)--[\w-]+", rest)}
            assert used <= known, f"{page.name}: {rest}"
            shown.append(rest)
    assert shown
