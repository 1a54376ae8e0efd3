"""What a sweep runs; that its answers are those of separate runs is shown in tests/e2e."""

import pytest

from lmms_kvtp.commands.sweep import plan
from lmms_kvtp.commands.table import _alone


def test_the_plan_has_every_method_at_every_ratio_and_the_unpruned_model_once_and_first() -> None:
    cells = plan(["random", "full", "kvtp+tome"], [0.1, 0.25])
    assert [cell.name for cell in cells] == ["full", "random 10%", "random 25%", "kvtp+tome 10%", "kvtp+tome 25%"]
    assert [cell.settings["keep_ratio"] for cell in cells] == ["1", "0.1", "0.25", "0.1", "0.25"]
    assert len({cell.folder for cell in cells}) == 5


def test_a_cells_folder_lies_directly_below_the_sweeps() -> None:
    cells = plan(["kvtp+tome", "kvtp/softmax+tome", "kvtp/hard+my_pkg.pruners:Mine"], [0.125])
    assert not any(sign in cell.folder for cell in cells for sign in " %:/")


def test_what_is_named_twice_is_one_cell() -> None:
    cells = plan(["full", "random", "random", "full"], [0.2, 0.2])
    assert [cell.name for cell in cells] == ["full", "random 20%"]


@pytest.mark.parametrize("ratio", [0.0, 1.5, -0.2, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"outside \(0, 1\]; a ratio is the share of vision tokens kept"):
        plan(["random"], [0.2, ratio])


def test_rows_know_the_row_of_their_pruner_alone() -> None:
    alone = {cell.name: _alone(cell) for cell in plan(["full", "grid", "hard+grid", "kvtp+grid", "oracle+tome"], [0.4])}
    assert alone == {
        "full": "",
        "grid 40%": "",
        "hard+grid 40%": "",
        "kvtp+grid 40%": "grid 40%",
        "oracle+tome 40%": "tome 40%",
    }
