"""Which cells a sweep or comparison has, and the `--model_args` of each."""

import re

import pytest

from lmms_kvtp.commands.cells import Variant, arguments_of, beforehand, only, plan, with_verdicts
from lmms_kvtp.run.options import parse_arguments
from lmms_kvtp.settings import pairs


def test_the_plan_has_every_method_at_every_ratio_and_the_unpruned_model_once_and_first() -> None:
    cells = plan(["random", "full", "kvtp+tome"], [0.1, 0.25])
    assert [cell.name for cell in cells] == ["full", "random 10%", "random 25%", "kvtp+tome 10%", "kvtp+tome 25%"]
    assert [cell.settings["keep_ratio"] for cell in cells] == ["1", "0.1", "0.25", "0.1", "0.25"]
    assert len({cell.folder for cell in cells}) == 5


def test_a_cells_folder_lies_directly_below_the_sweeps() -> None:
    cells = plan(["kvtp+tome", "kvtp/softmax+tome", "kvtp/hard+my_pkg.pruners:Mine"], [0.125])
    cells.append(Variant("prumerge, KVTP's tower=1", 0.2, {}))
    assert not any(sign in cell.folder for cell in cells for sign in " %:/,='")


def test_a_recipe_s_layers_are_in_proportion_to_the_depth_of_the_model_that_is_named() -> None:
    layers = [plan(["prunevid"], [0.2], given)[0].settings["layer_pruning.layer"] for given in ("", "pretrained=tiny")]
    assert layers == ["10", "2"]


def test_what_is_named_twice_is_one_cell() -> None:
    cells = plan(["full", "random", "random", "full"], [0.2, 0.2])
    assert [cell.name for cell in cells] == ["full", "random 20%"]


def test_settings_behind_a_name_are_axes_where_they_take_one_value() -> None:
    cells = plan(["kvtp+tome,allocator.temperature=0.5:1:2,encoder.pretrained=tiny"], [0.2, 0.1])
    assert [cell.settings["allocator.temperature"] for cell in cells] == ["0.5"] * 2 + ["1.0"] * 2 + ["2.0"] * 2
    assert cells[0].name == "kvtp+tome,allocator.temperature=0.5,encoder.pretrained=tiny 20%"
    assert {cell.settings["scorer"] for cell in cells} == {"kvtp"} and len({cell.folder for cell in cells}) == 6
    own = plan(["name=grid,keep_ratio=0.3:0.4", "pruner=my_pkg.parts:Mine,scorer=uniform"], [0.2])
    assert [cell.name for cell in own] == ["grid 30%", "grid 40%", "pruner=my_pkg.parts:Mine,scorer=uniform 20%"]


def test_a_setting_that_takes_several_values_is_none() -> None:
    given = "pruner=none,layer_pruning=pyramiddrop,layer_pruning.layers=1:2:3,layer_pruning.ratios=0.9:0.8:0.7"
    [cell] = plan([given], [1.0])
    assert cell.settings["layer_pruning.layers"] == "1:2:3"


def test_a_value_that_is_no_number_names_the_setting() -> None:
    with pytest.raises(ValueError, match=r"allocator\.temperature='a' is not a number"):
        plan(["kvtp+tome,allocator.temperature=1:a"], [0.2])


def test_the_unpruned_model_takes_no_method_from_the_arguments_of_all_cells() -> None:
    full, random = plan(["llava_video", "random"], [0.2])
    common = "pretrained=tiny,layer_pruning=fastv,max_frames_num=8"
    assert "layer_pruning" not in arguments_of(common, full) and "max_frames_num=8" in arguments_of(common, full)
    assert "layer_pruning=fastv" in arguments_of(common, random)


def test_an_argument_that_a_method_overrides_is_an_error() -> None:
    [cell] = plan(["random"], [0.2])
    assert arguments_of("scorer=uniform", cell).count("scorer=") == 1
    with pytest.raises(ValueError, match=r"scorer=oracle contradicts method 'random 20%', which sets scorer=uniform"):
        arguments_of("pretrained=tiny,scorer=oracle", cell)


def test_one_method_is_one() -> None:
    assert "keep_ratio=0.3" in only("random", 0.3, "pretrained=tiny")
    with pytest.raises(ValueError, match="names 2 methods; give one"):
        only("kvtp+tome,allocator.temperature=1:2", None, "pretrained=tiny")
    with pytest.raises(ValueError, match=r"has a keep_ratio, and --keep-ratio 0\.3 is another"):
        only("tome,keep_ratio=0.2", 0.3, "pretrained=tiny")


@pytest.mark.parametrize("ratio", [0.0, 1.5, -0.2, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"outside \(0, 1\]; it is the share of vision tokens kept"):
        plan(["random"], [0.2, ratio])


def test_margin_and_contrasts_stand_in_the_cells_settings() -> None:
    cells = plan(["full", "tome", "kvtp+tome"], [0.1, 0.2])
    assert with_verdicts(cells, None) == cells
    told = {cell.name: cell.settings for cell in with_verdicts(cells, 3.0, "kvtp+tome vs tome, kvtp+tome vs full")}
    assert {name: (of["row"], of["against"], of["margin"]) for name, of in told.items()} == {
        "full": ("full", "none", "3"),
        "tome 10%": ("tome 10%", "none", "3"),
        "tome 20%": ("tome 20%", "none", "3"),
        "kvtp+tome 10%": ("kvtp+tome 10%", "tome 10%;full", "3"),
        "kvtp+tome 20%": ("kvtp+tome 20%", "tome 20%;full", "3"),
    }
    for cell in with_verdicts(cells, 3.0, "kvtp+tome vs tome"):
        read = parse_arguments(pairs("pretrained=tiny," + ",".join(f"{k}={v}" for k, v in cell.settings.items()))).run
        assert read.verdicts == {"row": cell.name, "against": cell.settings["against"], "margin": 3.0}


@pytest.mark.parametrize("contrast", ["kvtp+tome vs random", "random vs tome", "tome"])
def test_a_contrast_of_rows_that_do_not_run_is_refused(contrast: str) -> None:
    with pytest.raises(LookupError, match=f"contrast {re.escape(repr(contrast))}: both must be among --methods"):
        with_verdicts(plan(["full", "tome", "kvtp+tome"], [0.1]), None, contrast)


def test_a_sweep_says_what_a_board_will_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_kvtp.run.source.tree", lambda: {"dirty": True})
    dirty, full, margin = beforehand(plan(["random"], [0.2]), None)
    assert "no commit holds" in dirty and "full is not among the methods" in full and "no --margin" in margin
    monkeypatch.setattr("lmms_kvtp.run.source.tree", lambda: {"dirty": False})
    assert beforehand(plan(["full", "random"], [0.2]), 3.0) == []
