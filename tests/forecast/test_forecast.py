"""Forecasts against torch's counter at the real sizes, and against runs of the embedded sizes."""

import runpy
from pathlib import Path

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.cost.flops import LLMShape, selection_flops
from lmms_kvtp.forecast.forecast import conventions, fastv_formula, forecast, thop_stages
from lmms_kvtp.forecast.models import find_encoder, find_spec
from lmms_kvtp.forecast.profilers import profile
from lmms_kvtp.leaderboard.provenance import paper_rows
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.presets import method_settings

MODELS = {"llava-video-7b": 2, "llava-video-72b": 3}
"""Tables of the paper, by model."""


def cost_of(method: str, model: str = "llava-video-7b", frames: int = 128, pool: str = "average"):
    spec = find_spec(model)
    return forecast(spec, build_method(method_settings(method), KVTP), frames, spec.pool(pool)).cost


@pytest.mark.parametrize("model", MODELS)
def test_closed_forms_equal_torchs_counter_at_the_real_sizes(model):
    spec, method = find_spec(model), build_method(method_settings("kvtp+prumerge"), KVTP)
    cost = forecast(spec, method, 128, spec.pool("average")).cost
    seen = profile(spec, "torch", cost, find_encoder(method.encoder.pretrained))
    for stage in ("vision", "projector", "encoder", "prefill"):
        assert cost.flops[stage] == seen[stage], stage
    assert cost.flops["scorer"] - seen["scorer"] == 2 * 128 * 1152  # cosines, which are no network


@pytest.mark.parametrize("model", [*MODELS, "tiny"])
@pytest.mark.parametrize("method", ["full", "kvtp+prumerge"])
def test_the_closed_form_of_thop_is_what_thop_counts(model, method):
    spec = find_spec(model)
    built = build_method(method_settings(method), {**KVTP, "encoder.pretrained": spec.default_encoder})
    cost = forecast(spec, built, 16).cost
    encoder = find_encoder(built.encoder.pretrained) if built.needs else None
    assert thop_stages(cost, spec, encoder) == profile(spec, "thop", cost, encoder)


def test_thop_misses_attention_and_counts_multiply_adds():
    spec, cost = find_spec("llava-video-7b"), cost_of("full")
    seen = profile(spec, "thop", cost)
    n, m = cost.prompt_tokens, spec.llm
    attention = 4 * n * n * m.hidden * m.layers
    assert seen["prefill"] == (cost.flops["prefill"] - attention) / 2  # RMSNorm has no rule, either


@pytest.mark.parametrize("model", MODELS)
def test_thop_without_helper_is_what_the_paper_counted(model):
    spec, table = find_spec(model), paper_rows(MODELS[model])
    counts = []
    for row in table:
        method = build_method(method_settings(row.settings), KVTP)
        counts.append(sum(thop_stages(forecast(spec, method, 128, spec.pool("average")).cost, spec, None).values()))
    for row, count in zip(table, counts, strict=True):
        if "ToMe" not in row.method:
            assert abs(100 * count / counts[0] - (row.page_flops or row.relative_flops)) < 2.0, row.method


def test_lengths_are_those_of_the_released_geometry():
    full = cost_of("full")
    assert (full.tokens_before, full.tokens_structural) == (21632, 1664)  # 128 x 13 x 13, and 13 newlines a frame
    assert cost_of("full", pool="bilinear").tokens_before == 25088
    pruned = cost_of("random")
    assert (pruned.tokens_kept, pruned.tokens_structural) == (4326, 128)


def test_layer_pruning_shortens_the_layers_behind_it():
    cost = cost_of("layer_pruning=fastv,scorer=uniform,allocator=uniform,pruner=none,keep_ratio=1")
    assert set(cost.layer_lengths[:2]) == {23416} and set(cost.layer_lengths[2:]) == {23416 - 10816}
    stepped = cost_of("layer_pruning=pyramiddrop,pruner=none,scorer=uniform,keep_ratio=1")
    assert [stepped.layer_lengths[layer] for layer in (6, 7, 14, 21)] == [23416, 12600, 7192, 4488]


def test_what_a_layer_pruner_reads_is_in_the_forecast():
    cost, llm = (
        cost_of("layer_pruning=fastv,scorer=uniform,allocator=uniform,pruner=none,keep_ratio=1"),
        find_spec("llava-video-7b").llm,
    )
    assert cost.flops["layer_pruning"] == selection_flops(llm, 23416, rows=1)
    assert "layer_pruning" not in cost_of("full").flops


def test_pruners_are_forecast_at_the_models_width():
    pruned = cost_of("scorer=uniform,pruner=maxmin,keep_ratio=0.2")
    blocks = [min(18, 128 - frame) * (128 - frame) for frame in range(0, 128, 18)]  # 18 frames of 169 at once
    assert pruned.flops["pruner"] == 2 * sum(blocks) * 169**2 * 3584


def test_conventions_line_up():
    spec, cost = find_spec("llava-video-7b"), cost_of("full")
    found = conventions(cost, spec.llm)
    assert found["MACs"] == found["full"] / 2
    assert found["LLM only"] == cost.flops["prefill"]
    assert found["causal"] < found["full"] and found["FastV formula"] < found["LLM only"] / 2


def test_the_fastv_formula_is_its_papers():
    shape = LLMShape(hidden=5, intermediate=7, layers=2, heads=1, kv_heads=1, head_dim=5, vocabulary=11)
    assert fastv_formula(shape, [3, 2]) == (4 * 3 * 25 + 2 * 9 * 5 + 2 * 3 * 35) + (4 * 2 * 25 + 2 * 4 * 5 + 2 * 2 * 35)


def test_what_runs_decides_is_said_to_be_unknown(capsys):
    assert main(["flops", "--method", "scorer=uniform,pruner=holitom", "--keep-ratio", "0.2", "--frames", "8"]) == 0
    shown = capsys.readouterr().out
    assert "not known before it runs" in shown
    assert "270 of 1352 vision tokens" in shown


def test_an_unknown_model_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["flops", "--model", "llava-video-8b", "--keep-ratio", "0.5"])
    assert "did you mean llava-video-7b" in capsys.readouterr().err


def test_the_page_has_the_table_of_today(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "costs.md"
    copy = tmp_path / "costs.md"
    copy.write_text(page.read_text().replace("334.8 | 54.8%", "old"))
    assert main(["flops", "--model", "llava-video-7b", "--into", str(copy)]) == 0
    assert copy.read_text() == page.read_text()


def test_only_the_papers_rows_go_into_a_page(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["flops", "--method", "random", "--keep-ratio", "0.2", "--into", str(tmp_path / "costs.md")])
    assert "leave out --method and --keep-ratio" in capsys.readouterr().err


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
