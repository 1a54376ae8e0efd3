"""Numbers of each allocator that can be worked out by hand, and the release's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lmms_kvtp.allocators.hard import Hard
from lmms_kvtp.allocators.kvtp_release import KvtpRelease, counts, rates
from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.allocators.uniform import Uniform

GOLDENS = Path(__file__).parents[1] / "goldens"
ARRAYS = np.load(GOLDENS / "kvtp_pruners.npz")
FACTS = json.loads((GOLDENS / "kvtp_pruners.json").read_text())
RELEVANCE = [name for name in FACTS["relevance"] if name.endswith("float32")]
SCORES = ["flat5", "mixed", "spike"]


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name])


def test_uniform_spreads_what_is_left_over():
    assert Uniform().allocate(torch.zeros(5), 17, 7).tolist() == [3, 3, 4, 3, 4]


def test_softmax_follows_equation_1():
    relevance = torch.log(torch.tensor([1.0, 2.0, 3.0, 4.0])) * 2  # softmax at temperature 2 is 1:2:3:4
    assert Softmax(floor=0).allocate(relevance, 20, 100).tolist() == [2, 4, 6, 8]


def test_softmax_re_spreads_what_a_full_frame_cannot_take():
    relevance = torch.log(torch.tensor([1.0, 1.0, 2.0, 16.0])) * 2
    assert Softmax(floor=0).allocate(relevance, 18, 10).tolist() == [2, 2, 4, 10]


def test_softmax_leaves_each_frame_its_floor_where_the_total_allows_it():
    sharp = torch.tensor([0.0, 90.0, 1.0])
    assert Softmax(floor=2).allocate(sharp, 10, 9).tolist() == [2, 6, 2]
    assert Softmax(floor=4).allocate(sharp, 10, 9).tolist() == [3, 4, 3]
    assert Softmax(floor=1).allocate(sharp, 2, 9).tolist() == [0, 2, 0]


def test_softmax_of_huge_relevance_neither_overflows_nor_loses_tokens():
    assert Softmax(floor=0).allocate(torch.tensor([3e38, -3e38, 0.0]), 12, 7).tolist() == [7, 2, 3]


def test_softmax_at_temperature_zero_is_hard_selection():
    relevance = torch.tensor([0.5, 2.0, -1.0, 2.0, 1.0])
    assert Softmax(temperature=0.0).allocate(relevance, 17, 7).tolist() == [0, 7, 0, 7, 3]


def test_hard_fills_top_frames_and_prefers_the_earlier_of_equals():
    assert Hard().allocate(torch.tensor([1.0, 3.0, 3.0, 3.0]), 16, 7).tolist() == [0, 7, 7, 2]
    assert Hard().allocate(torch.zeros(100), 80, 2).tolist() == [2] * 40 + [0] * 60


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"temperature": float("nan")}, {"floor": -1}])
def test_softmax_refuses_settings_that_mean_nothing(settings):
    with pytest.raises(ValueError, match="must be >= 0"):
        Softmax(**settings)


@pytest.mark.parametrize("name", RELEVANCE)
def test_release_rates_and_kept_totals_are_those_of_the_release(name):
    asked = FACTS["relevance"][name]["kw"]
    base, temperature = asked.get("base_rate", 0.2), float(asked.get("temperature", 2))
    relevance = golden(f"{name}/logits").max(dim=0).values
    got = rates(relevance, base, temperature)
    torch.testing.assert_close(got, golden(f"{name}/rates"), rtol=2e-6, atol=0)
    for rule, kept in [("floor", "kept_int_floor"), ("complement", "kept_tome")]:
        allocator = KvtpRelease(temperature=temperature, rule=rule, base_rate=base)
        budgets = allocator.allocate(relevance, int(base * len(relevance) * 169), 169)
        assert budgets.sum() == FACTS["relevance"][name][kept]


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("settings", "base", "temperature"), [("rates_default", 0.1, 2.0), ("rates_r02_t1", 0.2, 1.0)])
def test_release_rates_of_integer_scores_are_those_of_the_release(name, settings, base, temperature):
    scores = golden(f"pruning_rates/{name}/scores")
    expected = golden(f"pruning_rates/{name}/{settings}")
    torch.testing.assert_close(rates(scores, base, temperature), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("rule", "pruner"), [("floor", "prumerge"), ("complement", "tome")])
def test_release_counts_are_those_of_the_release(rule, pruner):
    given = torch.tensor(FACTS[f"rates_{pruner}"])
    assert torch.equal(counts(given, 169, rule), golden(f"{pruner}_intended_rates/counts"))


def test_release_takes_its_rate_from_the_total_and_refuses_a_contradiction():
    relevance = torch.tensor([0.0, 0.0])
    assert KvtpRelease().allocate(relevance, 20, 100).tolist() == [10, 10]
    with pytest.raises(ValueError, match=r"base_rate=0.5 contradicts a total of 20 of 200 tokens"):
        KvtpRelease(base_rate=0.5).allocate(relevance, 20, 100)


def test_release_cannot_divide_by_temperature_zero():
    with pytest.raises(ValueError, match="allocator=hard"):
        KvtpRelease(temperature=0.0)
