"""`lmms-kvtp list` and the page that it fills."""

from pathlib import Path

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.components import HEADER, components, components_table
from lmms_kvtp.table import between

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def row(part: str, name: str) -> dict[str, str]:
    [line] = [line for line in components_table(part).splitlines() if line.startswith(f"| `{name}` ")]
    return dict(zip(HEADER, [cell.strip() for cell in line.strip("|").split("|")], strict=True))


def test_the_page_is_what_the_code_says():
    assert between(PAGE, "components")[1].split() == components().split(), "run: lmms-kvtp list --into docs/methods.md"


def test_the_command_renews_a_page(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- components -->\nold\n<!-- /components -->\nbelow\n")
    assert main(["list", "--into", str(page)]) == 0
    assert page.read_text() == f"above\n<!-- components -->\n{components()}\n<!-- /components -->\nbelow\n"
    assert capsys.readouterr().out == ""


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
