"""The cost of an answer reaches the harness's sample files, and what a run says of its own scores."""

from argparse import Namespace
from shutil import copytree

import huggingface_hub
import pytest
from lmms_eval.api.instance import unwrap_generation_output
from lmms_eval.models.model_utils.gen_metrics import reset_logged_metrics, summarize_logged_metrics

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.harness.results import CIRCULAR, notes_on, open_session, report, result
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.options import RunOptions
from lmms_kvtp.run.source import of_encoder
from lmms_kvtp.shipped import tiny_folder

PARTS = ("scorer", "allocator")
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


def test_encoders_are_the_same_by_their_weights_and_by_their_names_only_where_those_are_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    folder = str(copytree(tiny_folder() / "siglip", tmp_path / "mine"))
    mark = of_encoder(Siglip("tiny"))
    known, unknown = Siglip(folder), Siglip("someone/not-here")

    def said(encoder, index, *words):
        method = build_method({"encoder.pretrained": encoder.pretrained, **dict(zip(PARTS, words, strict=False))}, KVTP)
        return notes_on(method, {"a": [None, index], "b": [None]})

    assert said(known, ("another name", mark)) == {"a": CIRCULAR}
    assert said(known, (folder, "other weights")) == {}
    assert said(known, (folder, "")) == {"a": CIRCULAR}
    assert said(unknown, ("someone/not-here", mark)) == {"a": CIRCULAR}
    assert said(unknown, ("another name", mark)) == said(known, None) == {}
    assert said(known, (folder, mark), "uniform") == said(known, (folder, mark), "similarity", "uniform") == {}


def test_the_harness_s_summary_counts_samples_and_frames_that_could_not_be_read():
    reset_logged_metrics()
    of_video = {"num_frames": 4, "frames_patched": 3, "questions_on_video": 2}  # whose frames count once
    cost = SampleCost(tokens_before=10, tokens_kept=4, output_tokens=1, seconds={"prefill": 0.5}, **of_video)
    answers = [Answer("A", cost), Answer("B", cost), Answer("", SampleCost(), "VideoError: gone")]
    report(answers, ["v1: gone"], toy=False)
    told = summarize_logged_metrics()
    assert told["avg_frames_that_could_not_be_read"] == 3
    assert told["avg_samples_that_could_not_be_read"] == 1 and told["avg_vision_tokens_kept"] == 4


def test_an_output_folder_whose_name_is_no_text_is_refused(tmp_path):
    command = Namespace(output_path=f"{tmp_path}/\udcff", model_args="pretrained=tiny")
    with pytest.raises(ValueError, match=r"--output_path .*/\\udcff/.* no text; choose another folder"):
        open_session(RunOptions(), {}, command, 0)
