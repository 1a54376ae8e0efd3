"""The ledger of an answer."""

import json
import time
from dataclasses import replace

import pytest
import torch
from helpers.pretend_gpu import reported_waits

from lmms_kvtp.cost.meter import Meter, timed_as
from lmms_kvtp.cost.sample import SampleCost, forget, lookup, mean_seconds, record, task_metrics, timed

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


def test_waiting_is_no_work_and_all_that_a_video_needs_is_shared():
    seconds = {"decode": 1.0, "preprocess": 2.0, "vision": 4.0, "encoder": 8.0, "waiting": 16.0, "scorer": 32.0}
    cost = SampleCost(seconds=seconds, questions_on_video=5)
    assert cost.seconds_total == pytest.approx(15 / 5 + 32)
    assert cost.first_token_seconds == 2 + 4 + 8 + 32


def test_actual_ratio_is_measured_and_one_without_vision():
    assert replace(COST, keep_ratio=0.5).keep_ratio_actual == 0.25
    assert SampleCost().keep_ratio_actual == 1.0


def test_a_cost_survives_its_dictionary():
    assert SampleCost.from_dict(COST.to_dict()) == COST
    assert SampleCost.from_dict(json.loads(json.dumps(COST.to_dict()))) == COST


def test_the_first_token_comes_before_decoding_and_counts_no_reading_of_the_file():
    cost = SampleCost(seconds={"decode": 8.0, "vision": 2.0, "prefill": 1.0, "generate": 4.0}, questions_on_video=3)
    assert cost.first_token_seconds == 3.0


def test_operations_add_up():
    assert SampleCost(flops={"vision": 7, "prefill": 11}).flops_total == 18


def test_layers_that_drop_tokens_lower_the_average():
    assert SampleCost(layer_lengths=(40, 40, 10)).layer_average == 0.75
    assert SampleCost().layer_average == 1.0


def test_a_dictionary_tells_what_is_derived():
    values = COST.to_dict()
    assert values["flops_total"] == 0 and values["layer_average"] == 1.0
    assert values["first_token_seconds"] == pytest.approx(1.15)


def test_a_meter_takes_operations_or_counts_them():
    meter = Meter(torch.device("cpu"), flops={"vision": 5})
    with meter.stage("vision", 7):
        torch.rand(3, 4) @ torch.rand(4, 5)
    with meter.stage("pruner", None):
        torch.rand(3, 4) @ torch.rand(4, 5)
    with meter.stage("scorer"):
        pass
    assert meter.flops == {"vision": 12, "pruner": 120}
    assert meter.peak_bytes is None  # nothing exact to read on the CPU


def test_a_meter_adds_up_and_counts_failures():
    before = {"decode": 1.0}
    meter = Meter(torch.device("cpu"), before)
    with meter.stage("decode"):
        time.sleep(0.01)
    with pytest.raises(OSError), meter.stage("vision"):
        raise OSError
    assert meter.seconds["decode"] >= 1.01
    assert set(meter.seconds) == {"decode", "vision"}
    assert before == {"decode": 1.0}


def test_without_a_clock_an_answer_has_no_seconds_and_tables_have_none_of_it():
    with timed_as("off"):
        meter = Meter(torch.device("cpu"), flops={"vision": 5})
        with meter.stage("scorer", 7):
            pass
        meter.add("prefill", 1.0)
    timeless = SampleCost(tokens_before=4, tokens_kept=2, seconds=meter.seconds)
    assert meter.seconds == {} and meter.flops == {"vision": 5, "scorer": 7}
    assert mean_seconds([timeless]) is None and mean_seconds([timeless, COST]) == COST.seconds_total
    record("a task:9", timeless)
    assert task_metrics("a task:9") == {"vision_tokens_kept": 2.0, "keep_ratio_actual": 0.5, "seconds": None}
    forget()


@pytest.mark.gpu
@pytest.mark.parametrize(("timing", "most"), [("total", 0), ("auto", 0), ("stages", 2), ("off", 0)])
def test_a_gpu_is_waited_for_only_at_the_edges_of_stages_and_only_if_that_is_asked_for(timing, most):
    work = torch.rand(2000, 2000, device="cuda")
    with timed_as(timing):
        meter = Meter(work.device)
        torch.cuda.synchronize()
        with reported_waits() as waits, meter.stage("vision"):
            for _ in range(20):
                work @ work
        assert len(waits) <= most
        assert set(meter.seconds) == (set() if timing == "off" else {"vision"})
        assert timing == "off" or 1e-5 < meter.seconds["vision"] < 10
    assert meter.peak_bytes >= work.nbytes


def test_a_meter_knows_its_stages():
    with pytest.raises(KeyError, match="no stage 'dekode'; stages: decode"):
        Meter(torch.device("cpu")).add("dekode", 1.0)


def test_a_task_finds_the_cost_of_its_document():
    record("a task:7", COST)
    assert lookup("a task:7") == COST
    assert lookup("a task:8") is None
    assert task_metrics("a task:7") == {"vision_tokens_kept": 15.0, "keep_ratio_actual": 0.25, "seconds": 0.75}
    assert set(task_metrics("a task:8").values()) == {None}
    forget()
    assert lookup("a task:7") is None


def test_the_first_visuals_of_a_process_are_in_no_mean_of_seconds():
    cold, warm = replace(COST, cold=True), COST
    assert timed([cold, warm, warm]) == [warm, warm]
    assert timed([cold]) == [cold]  # nothing else is there


def test_a_cost_without_any_figure_has_the_defaults():
    assert SampleCost.from_dict({}) == SampleCost()
