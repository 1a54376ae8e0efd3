"""The cost of an answer reaches the harness's sample files."""

from lmms_eval.api.instance import unwrap_generation_output

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.harness.results import result
from lmms_kvtp.pipeline import Answer

COST = SampleCost(num_frames=3, tokens_before=20, tokens_kept=5, prompt_tokens=31, output_tokens=2)


def test_one_answer_carries_its_ledger_flat():
    text, counts = unwrap_generation_output(result([Answer("B", COST)], toy=False))
    values = counts.to_dict()
    assert text == "B"
    assert (values["input_tokens"], values["output_tokens"]) == (31, 2)
    assert SampleCost.from_dict(values) == COST
    assert values["keep_ratio_actual"] == 0.25
    assert "error" not in values and "toy" not in values


def test_a_failure_is_an_empty_answer_with_its_error_and_without_cost():
    generated = result([Answer("", SampleCost(), "VideoError: gone")], toy=False)
    assert generated.text == ""
    assert generated.token_counts.to_dict() == {"error": "VideoError: gone"}


def test_a_conversation_carries_a_ledger_for_each_turn():
    values = result([Answer("A", COST), Answer("B", COST), Answer("", SampleCost(), "x")], False).token_counts.to_dict()
    assert (values["input_tokens"], values["output_tokens"]) == (62, 4)
    assert [SampleCost.from_dict(turn) for turn in values["rounds"][:2]] == [COST, COST]
    assert values["rounds"][2] == {"error": "x"}


def test_answers_of_the_embedded_model_are_marked():
    assert result([Answer("A", COST)], toy=True).token_counts.to_dict()["toy"] is True
