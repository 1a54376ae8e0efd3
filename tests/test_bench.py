"""The waterfall of a run."""

import pytest

from lmms_kvtp.bench import one_after_the_other, side_by_side, stage_seconds, waterfall
from lmms_kvtp.cost import SampleCost

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
