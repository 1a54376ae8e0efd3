"""The waterfall of a run."""

import pytest

from lmms_kvtp.bench.waterfall import one_after_the_other, side_by_side, stage_floors, stage_seconds, waterfall
from lmms_kvtp.cost.sample import SampleCost

SHARED = {"decode": 6.0, "preprocess": 1.5, "vision": 3.0, "encoder": 0.6, "waiting": 4.5}
COSTS = [
    SampleCost(questions_on_video=3, seconds={**SHARED, "prefill": 0.5, "generate": 0.25}),
    SampleCost(questions_on_video=3, seconds={**SHARED, "prefill": 0.7, "generate": 0.25}),
    SampleCost(questions_on_video=3, seconds={**SHARED, "prefill": 0.9, "generate": 0.25}),
    SampleCost(questions_on_video=1, seconds={"decode": 2.0, "scorer": 0.1}),
]


def test_what_questions_share_counts_once_per_video():
    seconds = stage_seconds(COSTS)
    assert seconds["decode"] == pytest.approx(6 + 2)
    assert seconds["waiting"] == pytest.approx(4.5)
    assert seconds["prefill"] == pytest.approx(0.5 + 0.7 + 0.9)


def test_the_ideals_count_work_and_no_waiting():
    seconds = stage_seconds(COSTS)
    model = 3 + 0.6 + 2.1 + 0.75 + 0.1
    assert one_after_the_other(seconds) == pytest.approx(9.5 + model)
    assert side_by_side(seconds) == pytest.approx(9.5)
    assert side_by_side({**seconds, "vision": 13.0}) == pytest.approx(model + 10)


def test_the_table_has_every_stage_and_both_ideals():
    table = waterfall(COSTS)
    assert "| decode                      | 8.00    | 49.8      |" in table
    assert "| waiting                     | 4.50    |           |" in table
    assert "| ideal, decoder beside model | 9.50    |           |" in table


def test_floors_are_operations_over_the_rate_and_what_was_measured_alone():
    flops = {"vision": 60, "projector": 30, "encoder": 24, "scorer": 5, "prefill": 80, "generate": 7}
    shared = [SampleCost(questions_on_video=3, flops=flops, prefill_flops_causal=41)] * 3
    floors = stage_floors([*shared, SampleCost(flops=flops, prefill_flops_causal=41)], 10.0, {"decode": 2.5})
    wanted = {"vision": 2 * 9.0, "encoder": 2 * 2.4, "scorer": 4 * 0.5, "prefill": 4 * 4.1, "generate": 4 * 0.7}
    assert floors == pytest.approx({**wanted, "decode": 2.5})


def test_the_table_sets_each_stage_and_both_ideals_beside_their_floors():
    table = waterfall(COSTS, {"decode": 4.0, "vision": 2.0, "prefill": 7.0})  # prefill's seconds are 2.1
    assert "| decode                      | 8.00    | 49.8      | 4.000  | 2.0             |" in table
    assert "| encoder                     | 0.60    | 3.7       |        |                 |" in table
    assert "| ideal, one after the other  | 16.05   |           | 13.000 | 1.2             |" in table
    assert "| ideal, decoder beside model | 9.50    |           | 9.000  | 1.1             |" in table
    assert "WARNING: prefill took less than the floor" in table


def test_decoding_that_beats_its_floor_is_no_warning():
    assert "WARNING" not in waterfall(COSTS, {"decode": 9.0, "vision": 2.0})


def test_percentiles_are_those_of_warm_answers():
    costs = [SampleCost(seconds={"prefill": float(second)}) for second in range(1, 102)]
    told = waterfall([*costs, SampleCost(cold=True, seconds={"prefill": 900.0})])
    assert "each of 101 answers: 50 % within 51.00, 90 % within 91.00, 99 % within 100.00" in told
    assert "answers" not in waterfall(costs[:1])
