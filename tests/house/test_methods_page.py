"""Recorded runs of docs/methods.md: complete, and shown as they were recorded."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lmms_kvtp.presets import names_of
from lmms_kvtp.rendering import between

ROOT = Path(__file__).parents[2]
PAGE, BENCHMARKS = ROOT / "docs" / "methods.md", ROOT / "benchmarks"
MISSES = {"allocator aks_release", "allocator kvtp_release", "pruner flashvid_release", "pruner prunevid_release"}
"""Methods that keep another number than the budget, as published."""


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for helper in ("pruning", "loops"):
        sys.modules.pop(helper, None)
    return module


def test_every_method_that_ran_through_the_harness_kept_its_exact_budget(monkeypatch):
    script = benchmark("methods", monkeypatch)
    result, known = json.loads(script.RESULTS.read_text()), script.methods()
    rows = result["rows"]
    assert {row["method"] for row in rows} | set(result["left_out"]) == set(known)
    assert len(rows) > len(known) // 3
    assert all((row["model"], row["model_args"]) == known[row["method"]] for row in rows)
    for row in rows:
        assert row["questions"] == len(row["kept"]) > 0
        if row["method"] in MISSES:
            assert all(0 <= kept < 1.02 * budget for kept, budget in zip(row["kept"], row["budget"], strict=True))
        else:
            assert row["kept"] == row["budget"], row["method"]
        assert all(0 < last <= 1 for last in row["last_layer"])
        cut_later = "layer_pruning=" in row["model_args"] and "layer_pruning=none" not in row["model_args"]
        cut_later = cut_later or row["method"] in ("llava_video_fastv", "llava_video_prunevid")
        assert cut_later == any(last < 1 for last in row["last_layer"])
    assert between(PAGE, "harness")[1].split() == script.table(rows).split()


def test_every_pruner_was_timed_or_is_said_to_be_left_out(monkeypatch):
    script = benchmark("pruners", monkeypatch)
    result = json.loads((BENCHMARKS / "results" / "pruners_cpu.json").read_text())
    rows = result["rows"]
    assert sorted([*(row["pruner"] for row in rows), *result["left_out"]]) == names_of("pruner")
    assert between(PAGE, "pruner costs")[1].split() == script.table(rows).split()


def test_pruning_between_layers_costs_little_as_recorded(monkeypatch):
    script = benchmark("layer_pruning", monkeypatch)
    rows = json.loads((BENCHMARKS / "results" / "layer_pruning_cpu.json").read_text())["rows"]
    assert between(script.PAGE, "layer costs")[1].split() == script.table(rows).split()
    assert [row["method"].split()[0] for row in rows] == ["none", "fastv", "prunevid", "pyramiddrop"]
    for row in rows[1:]:
        assert row["peak_over_unpruned"] <= 1.05 and row["select_over_saved"] <= 0.05


@pytest.mark.slow
def test_every_method_runs_through_the_harness_now(monkeypatch, tmp_path):
    script = benchmark("methods", monkeypatch)
    known = script.methods()
    script.run(known, 1, tmp_path)
    for name, parts in known.items():
        row = script.row(name, *parts, tmp_path)
        assert row["kept"] == row["budget"] or name in MISSES
