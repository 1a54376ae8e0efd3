"""The ledger of an answer."""

import time

import pytest
import torch

from lmms_kvtp.cost import Meter, SampleCost, lookup, record

COST = SampleCost(
    num_frames=5,
    tokens_before=60,
    tokens_kept=15,
    questions_on_video=3,
    seconds={"decode": 0.6, "vision": 0.9, "prefill": 0.25},
    layer_lengths=(40, 40),
)


def test_shared_stages_are_divided_among_the_questions_on_a_video():
    assert COST.seconds_total == pytest.approx((0.6 + 0.9) / 3 + 0.25)


def test_actual_ratio_is_measured_and_one_without_vision():
    assert COST.keep_ratio_actual == 0.25
    assert SampleCost().keep_ratio_actual == 1.0


def test_a_cost_survives_its_dictionary():
    assert SampleCost.from_dict(COST.to_dict()) == COST


def test_a_meter_adds_up_and_counts_failures():
    meter = Meter(torch.device("cpu"), {"decode": 1.0})
    with meter.stage("decode"):
        time.sleep(0.01)
    with pytest.raises(OSError), meter.stage("vision"):
        raise OSError
    assert meter.seconds["decode"] >= 1.01
    assert set(meter.seconds) == {"decode", "vision"}


def test_a_meter_knows_its_stages():
    with pytest.raises(KeyError, match="no stage 'dekode'; stages: decode"):
        Meter(torch.device("cpu")).add("dekode", 1.0)


def test_a_task_finds_the_cost_of_its_document():
    record("a task:7", COST)
    assert lookup("a task:7") == COST
    assert lookup("a task:8") is None
