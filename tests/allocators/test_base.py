"""Numbers of each allocator that can be worked out by hand, and the release's own."""

import json
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmms_kvtp.allocators.aks import AdaptiveKeyframes
from lmms_kvtp.allocators.base import at_one_rate
from lmms_kvtp.allocators.frames import FewerFrames
from lmms_kvtp.allocators.hard import Hard
from lmms_kvtp.allocators.kvtp_release import KvtpRelease, counts, rates
from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.allocators.uniform import EqualBudgets
from lmms_kvtp.allocators.vidcom2 import VidCom2Budgets

GOLDENS = Path(__file__).parents[1] / "goldens"
ARRAYS = np.load(GOLDENS / "kvtp_pruners.npz")
FACTS = json.loads((GOLDENS / "kvtp_pruners.json").read_text())
RELEVANCE = [name for name in FACTS["relevance"] if name.endswith("float32")]
SCORES = ["flat5", "mixed", "spike"]


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name])


def test_uniform_spreads_what_is_left_over():
    assert EqualBudgets().allocate(torch.zeros(5), 17, 7).tolist() == [3, 3, 4, 3, 4]


def test_fewer_frames_are_whole_and_evenly_spread():
    assert FewerFrames().allocate(torch.arange(9.0), 25, 10).tolist() == [0, 10, 0, 0, 10, 0, 0, 5, 0]


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


def aks_loop(scores: list[float], count: int, threshold: float, depth: int) -> list[tuple[list[int], int]]:
    """The frames of each part and its halvings, part by part instead of by recursion."""
    parts, leaves = [(list(range(len(scores))), 0)], []
    while parts:
        frames, halvings = parts.pop(0)
        ranked = sorted((scores[frame] for frame in frames), reverse=True)[:count]
        peak = sum(ranked) / len(ranked) - sum(scores[frame] for frame in frames) / len(frames)
        if peak > threshold or halvings == depth or len(frames) == 1:
            leaves.append((frames, halvings))
        else:
            middle = len(frames) // 2
            parts += [(frames[:middle], halvings + 1), (frames[middle:], halvings + 1)]
    return leaves


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8])
def test_aks_keeps_the_top_frames_of_each_part_of_the_loop(threshold):
    scores = torch.rand(32, generator=torch.Generator().manual_seed(7), dtype=torch.float64) ** 3
    scores = (scores - scores.min()) / (scores.max() - scores.min())
    budgets = AdaptiveKeyframes(threshold=threshold, depth=3).allocate(3 * scores - 2, 8 * 10, 10)
    expected = []
    for frames, halvings in aks_loop(scores.tolist(), 8, threshold, 3):
        expected += sorted(frames, key=lambda frame: -scores[frame])[: 8 // 2**halvings]
    assert torch.nonzero(budgets).flatten().tolist() == sorted(expected)
    assert set(budgets.tolist()) == {0, 10}


def test_aks_spreads_flat_relevance_and_leaves_the_rest_to_its_least_relevant_frame():
    assert AdaptiveKeyframes(depth=2).allocate(torch.zeros(8), 37, 10).tolist() == [10, 0, 10, 0, 10, 0, 7, 0]


def test_aks_keeps_a_peak_whole_and_makes_up_for_frames_that_a_part_lacks():
    peak = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    assert AdaptiveKeyframes(threshold=0.7).allocate(peak, 20, 10).tolist() == [0, 0, 0, 0, 10, 10, 0, 0]
    assert AdaptiveKeyframes(depth=5).allocate(torch.zeros(3), 30, 10).tolist() == [10, 10, 10]


def test_aks_halves_the_share_of_a_part_with_each_halving():
    relevance = torch.tensor([1.0] * 8 + [0.0] * 8 + [0.6] * 16)  # the first half has a peak, the second is flat
    budgets = AdaptiveKeyframes(threshold=0.47, depth=2).allocate(relevance, 8, 1)
    assert [int(part.sum()) for part in budgets.split([16, 8, 8])] == [4, 2, 2]


def test_aks_with_fewer_frames_than_parts_keeps_the_best_of_larger_parts():
    relevance = torch.tensor([0.0, 9.0, 1.0, 2.0, 3.0, 5.0])
    assert AdaptiveKeyframes().allocate(relevance, 20, 10).tolist() == [0, 10, 0, 0, 0, 10]


def test_vidcom2_adds_one_equal_share_to_the_most_distinctive_frame():
    relevance = torch.tensor([0.0, -1.0, 3.0, 1.0])
    assert VidCom2Budgets().allocate(relevance, 80, 100).tolist() == [15, 15, 35, 15]
    assert VidCom2Budgets(temperature=1e6).allocate(relevance, 80, 100).tolist() == [20, 20, 20, 20]


def test_settings_of_frame_selection_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="depth=-1 must be >= 0"):
        AdaptiveKeyframes(depth=-1)
    with pytest.raises(ValueError, match=r"temperature=0.0 must be > 0"):
        VidCom2Budgets(temperature=0.0)


@settings(max_examples=200)
@given(
    groups=st.lists(st.tuples(st.integers(1, 90), st.booleans()), min_size=1, max_size=9),
    rate=st.integers(0, 64).map(lambda part: part / 64),
)
@example(groups=[(176, False), (158, True)], rate=0.25)
def test_one_rate_gives_the_counts_that_rounding_at_it_gives(groups, rate):
    wanted = [round(size * rate) if nearest else ceil(size * rate) for size, nearest in groups]
    sizes, nearest = (torch.tensor(column) for column in zip(*groups, strict=True))
    assert at_one_rate(sizes.double(), sizes, sum(wanted), nearest / 2).tolist() == wanted


def test_a_group_without_mass_gets_what_others_cannot_take():
    sizes, mass = torch.tensor([3, 4, 2]), torch.tensor([0.0, 9.0, 1.0])
    assert [at_one_rate(mass, sizes, total).tolist() for total in (1, 6, 8)] == [[0, 1, 0], [0, 4, 2], [2, 4, 2]]
