"""What every allocator promises, checked for each of them by name."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lmms_kvtp.allocators.base import BudgetAllocator
from lmms_kvtp.resolve import available, resolve

ALLOCATORS = [resolve("lmms_kvtp.allocators", name, BudgetAllocator) for name in available("lmms_kvtp.allocators")]
BY_RELEVANCE = [cls for cls in ALLOCATORS if cls.query_aware and not cls.temporal]
every = pytest.mark.parametrize("cls", ALLOCATORS, ids=lambda cls: cls.__name__)
by_relevance = pytest.mark.parametrize("cls", BY_RELEVANCE, ids=lambda cls: cls.__name__)

quarters = st.integers(-200, 200).map(lambda number: number / 4)


@st.composite
def demands(draw):
    """Relevance, a total that fits, and a capacity."""
    relevance = torch.tensor(draw(st.lists(quarters, min_size=1, max_size=40)))
    capacity = draw(st.integers(1, 30))
    return relevance, draw(st.integers(0, len(relevance) * capacity)), capacity


@every
@given(demand=demands())
def test_budgets_are_integers_within_the_frames_that_sum_to_the_total(cls, demand):
    relevance, total, capacity = demand
    budgets = cls().allocate(relevance, total, capacity)
    assert budgets.dtype == torch.int64 and budgets.shape == relevance.shape and budgets.device.type == "cpu"
    assert budgets.min() >= 0 and budgets.max() <= capacity
    if cls.exact:
        assert budgets.sum() == total


@every
@pytest.mark.parametrize("frames", [1, 2, 128, 256])
@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.2, 0.999, 1.0])
def test_totals_of_real_sizes_are_exact(cls, frames, ratio):
    relevance = torch.randn(frames, generator=torch.Generator().manual_seed(frames)) * 3
    total = int(frames * 169 * ratio)
    budgets = cls().allocate(relevance, total, 169)
    assert not cls.exact or budgets.sum() == total
    assert ratio not in (0, 1) or not cls.exact or set(budgets.tolist()) == {int(169 * ratio)}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_relevance_of_any_precision_is_read_and_left_alone(cls, dtype):
    relevance = torch.tensor([0.5, -1.25, 8.0, 2.5], dtype=dtype)
    before = relevance.clone()
    first = cls().allocate(relevance, 13, 7)
    assert torch.equal(relevance, before)
    assert torch.equal(first, cls().allocate(relevance, 13, 7))
    assert torch.equal(first, cls().allocate(relevance.float(), 13, 7))


@by_relevance
@given(demand=demands(), seed=st.integers(0, 99))
def test_budgets_move_with_their_frames(cls, demand, seed):
    relevance, total, capacity = demand
    assume(len(relevance.unique()) == len(relevance))  # ties go to the earlier frame
    order = torch.randperm(len(relevance), generator=torch.Generator().manual_seed(seed))
    budgets = cls().allocate(relevance, total, capacity)
    assert torch.equal(cls().allocate(relevance[order], total, capacity), budgets[order])


@by_relevance
@given(demand=demands())
def test_a_frame_of_higher_relevance_never_gets_less(cls, demand):
    relevance, total, capacity = demand
    budgets = cls().allocate(relevance, total, capacity)
    lower, higher = torch.nonzero(relevance[:, None] < relevance[None], as_tuple=True)
    assert (budgets[lower] <= budgets[higher]).all()


@every
@pytest.mark.parametrize("total", [-1, 16])
def test_a_total_that_does_not_fit_is_refused_with_the_limit(cls, total):
    with pytest.raises(ValueError, match=rf"cannot keep {total} tokens of 3 frames x 5 tokens"):
        cls().allocate(torch.zeros(3), total, 5)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_relevance_that_is_not_finite_is_refused_with_the_frame(cls, bad):
    with pytest.raises(ValueError, match=r"frames \[2\] is not finite"):
        cls().allocate(torch.tensor([0.0, 1.0, bad, 2.0]), 7, 5)


@every
def test_relevance_counts_exactly_where_that_is_declared(cls):
    relevance = torch.tensor([0.0, 9.0, 1.0, 2.0, 3.0, 5.0]).repeat(12)  # AKS's release loses less than 32 frames
    differ = not torch.equal(cls().allocate(relevance, 400, 10), cls().allocate(relevance.flip(0), 400, 10))
    assert differ == cls.query_aware


@every
def test_no_frames_have_no_budgets(cls):
    assert cls().allocate(torch.zeros(0), 0, 5).tolist() == []


@pytest.mark.gpu
@every
def test_scores_of_a_gpu_get_the_budgets_of_the_cpus(cls):
    relevance = torch.randn(40, generator=torch.manual_seed(3))
    budgets = cls().allocate(relevance.cuda(), 90, 12)
    assert budgets.device.type == "cpu" and torch.equal(budgets, cls().allocate(relevance, 90, 12))
