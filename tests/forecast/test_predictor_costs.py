"""What relevance scorers cost at the sizes of LLaVA-Video-7B, as docs/predictor.md has it."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = runpy.run_path(str(ROOT / "benchmarks" / "predictor.py"))


def share(name: str) -> float:
    """Per cent of an answer without pruning."""
    return 100 * sum(SIZES["SCORERS"][name]) / SIZES["base_flops"]()


def test_a_light_head_and_low_resolutions_stay_below_their_limits():
    assert share("shared, text side of so400m") < 0.3 and share("shared, text side of base") < 0.3
    assert share("KVTP, base-patch16-224") < 1
    assert 10 < share("KVTP, so400m-patch14-384") < 15


def test_the_page_shows_the_computed_table():
    page = (ROOT / "docs" / "predictor.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    rows = {line[0]: line[3] for line in cells if line[0].startswith(("KVTP, ", "shared, ")) and line[3].endswith("%")}
    assert rows == {name: f"{share(name):.3g} %" for name in SIZES["SCORERS"]}


def test_the_model_itself_costs_what_the_papers_sizes_say():
    length = 128 * 14 * 15 + 100
    causal_half = 28 * 4 * length**2 * 3584 / 2
    assert abs((SIZES["base_flops"]() - causal_half) / 582e12 - 1) < 0.01
