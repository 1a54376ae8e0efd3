"""Refinement by a model for training and evaluation of predictors, at a real server process."""

import argparse
import json
import re

import pytest

from lmms_kvtp.__main__ import main
from lmms_kvtp.commands.predictor_data import add_data_arguments, examples
from lmms_kvtp.questions import refine
from lmms_kvtp.skvqa_build.store import Store

ASKED = {"video": "v.mp4", "question": "Who is near the red car in the video?", "options": ["A. a man", "B. a dog"]}
OTHER = {"video": "w.mp4", "question": "What is it all about?"}
KNOWN = {"video": "w.mp4", "question": "Who sings?", "refined": "Singer?"}


def questions(folder, *given):
    """Refined questions of an index where one is asked twice and one is refined already."""
    index = folder / "index.jsonl"
    index.write_text("\n".join(json.dumps({**entry, "spans": []}) for entry in (ASKED, OTHER, ASKED, KNOWN)))
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    found = examples(parser.parse_args(["--index", str(index), *given]), "train", folder / "features")
    return [question.refined for example in found for question in example.questions]


def endpoint(stub, model="good"):
    return "--refiner", f"endpoint:{model}", "--endpoint", stub.url, "--timeout", "20"


def test_a_model_refines_each_question_once_for_all_runs(tmp_path, start_stub):
    stub = start_stub()
    refined = questions(tmp_path, *endpoint(stub))
    ours = "Refined: Who is near the red car in the video?"
    assert refined == [ours, ours, "Refined: What is it all about?", "Singer?"]
    assert len(stub.requests()) == 2
    assert questions(tmp_path, *endpoint(stub)) == refined and len(stub.requests()) == 2
    (used,) = Store(tmp_path / "features" / "refinements.sqlite").usage()
    assert (used.step, used.model, used.calls) == ("refine", "good", 2)


def test_a_model_is_asked_only_for_what_an_index_has_not_refined(tmp_path, start_stub):
    stub, remembered = start_stub(), tmp_path / "remembered.jsonl"
    remembered.write_text(json.dumps({**ASKED, "refined": "Red car, man or dog?"}))
    refined = questions(tmp_path, *endpoint(stub), "--refined", str(remembered))
    assert refined[0] == "Red car, man or dog?" and refined[2] == "Refined: What is it all about?"
    assert len(stub.requests()) == 1


def test_what_a_model_cannot_refine_is_refined_by_rule_and_counted(tmp_path, start_stub, caplog):
    refined = questions(tmp_path, *endpoint(start_stub(), "stubborn"))
    assert refined[0] == refine(ASKED["question"], ASKED["options"]) == "Who is near the red car? Choices: man, dog."
    assert re.search(r"2 of 2 questions are refined by rule; one of them, 'Wh.*\?': it is not JSON", caplog.text)


def test_the_command_reads_refinements_and_names_what_it_cannot_use(tmp_path, start_stub, capsys):
    index = tmp_path / "index.jsonl"
    index.write_text(json.dumps({**ASKED, "spans": [[0, 1, 5]]}))
    data = ["--index", str(index), "--features", str(tmp_path)]
    for wrong, message in (
        (["--refiner", "gpt-4o"], "--refiner gpt-4o: wanted rule or endpoint:MODEL"),
        (["--refiner", "endpoint:"], "endpoint: needs the name of a model"),
        ([*endpoint(start_stub()), "--budget", "1"], "price"),
        (["--refiner", "endpoint:secret", *endpoint(start_stub())[2:]], "refuses model 'secret'"),
    ):
        with pytest.raises(SystemExit):
            main(["eval", "predictor", *data, *wrong])
        assert message in capsys.readouterr().err
