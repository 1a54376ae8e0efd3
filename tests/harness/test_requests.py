"""Requests of the harness become questions of ours."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lmms_kvtp.harness.requests import read_ask, read_options, typed_options
from lmms_kvtp.questions import Question
from lmms_kvtp.run.asks import Ask, check_files, flatten, name_visuals, read_question, read_visuals, split_prompt
from lmms_kvtp.types import GenerationOptions

PROMPT = "Watch.\nWhat is red?\nA. the ball\nB. the sky\nC. a dog\nAnswer with the option's letter directly."


def test_the_bare_question_and_its_options_come_from_the_document():
    doc = {"question": "What is red?", "options": ["A. the ball", "(B) the sky"], "spans": [[1, 2.5, 1]]}
    question = read_question(PROMPT, doc, "doc-1")
    assert question.prompt == PROMPT
    assert (question.stem, question.options) == ("What is red?", ("the ball", "the sky"))
    assert question.spans == ((1.0, 2.5, 1.0),)
    assert question.doc_key == "doc-1"


def test_else_they_come_from_the_prompt():
    question = read_question(PROMPT, {"question": {"a": "dict"}, "options": "text"}, "doc-1")
    assert question.options == ("the ball", "the sky", "a dog")
    assert "What is red?" in question.stem and "A. the ball" not in question.stem
    assert question.spans is None


def test_the_scorer_reads_neither_letters_nor_instructions():
    refined = read_question(PROMPT, {}, "doc-1").refined
    assert "What is red?" in refined and "ball" in refined
    assert "A." not in refined and "letter" not in refined


def test_empty_spans_are_not_missing_spans():
    assert read_question(PROMPT, {"spans": []}, "doc-1").spans == ()


@pytest.mark.parametrize("text", ["no options here", "A. one thing only", "B. not\nA. in order", ""])
def test_text_without_a_list_of_options_stays_whole(text):
    assert split_prompt(text) == (text, ())


def test_visuals_are_one_flat_list():
    assert flatten(None) == []
    assert flatten("clip.mp4") == ["clip.mp4"]
    assert flatten(["a.mp4", ["b.mp4", ("c.mp4",)]]) == ["a.mp4", "b.mp4", "c.mp4"]


def test_a_task_that_ends_the_process_becomes_an_error():
    with pytest.raises(FileNotFoundError, match="cannot find the document's video: no clip 7"):
        read_visuals(lambda doc: sys.exit("no clip 7"), {})


def test_images_in_memory_are_named_by_their_content():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert name_visuals([image]) == name_visuals([image.copy()])
    assert name_visuals([image]) != name_visuals([image + 1])
    assert name_visuals(["/data/a.mp4"]) == ("/data/a.mp4",)


def request(**metadata):
    return SimpleNamespace(args=("prompt", {}, None, 7, "some_task", "test"), metadata=metadata)


def test_a_document_is_known_by_its_own_name_or_by_its_number():
    options = GenerationOptions()
    named = read_ask(request(version=1.5), {"kvtp_id": "mine/7"}, options, "prompt", list)
    assert (named.question.doc_key, named.task, named.version) == ("mine/7", "some_task", "1.5")
    assert read_ask(request(), {}, options, "prompt", list).question.doc_key == "some_task/7"


def test_unreadable_visuals_fail_when_their_question_is_answered():
    def load():
        raise KeyError("video")

    ask = read_ask(request(), {}, GenerationOptions(), "prompt", load)
    assert "unreadable visuals of some_task/7" in ask.visuals[0]
    with pytest.raises(KeyError):
        ask.load()


def test_missing_videos_are_counted_before_the_first_answer(tmp_path):
    (tmp_path / "here.mp4").touch()

    def ask(*visuals):
        return Ask("some_task", "1", Question("prompt", doc_key="doc-3"), visuals, list, GenerationOptions())

    present = ask(str(tmp_path / "here.mp4"))
    check_files([present, ask("3 images 0123456789abcdef")])
    with pytest.raises(FileNotFoundError, match=r"2 of 3 videos are not there, first document doc-3 .*on_error=skip"):
        check_files([present, ask("/none/a.mp4"), ask("/none/b.mp4")])


DEFAULTS = GenerationOptions(max_new_tokens=77, seed=5)


def test_defaults_hold_where_the_task_is_silent():
    assert read_options({}, DEFAULTS) == DEFAULTS
    assert read_options({"max_new_tokens": None, "temperature": None}, DEFAULTS) == DEFAULTS


def test_settings_of_the_task_are_honoured():
    settings = {"max_new_tokens": 9, "temperature": 0.7, "top_p": 0.8, "num_beams": 3, "until": ["\n\n", ""], "seed": 2}
    expected = GenerationOptions(9, 0.7, 0.8, 3, ("\n\n",), 2)
    assert read_options(settings, DEFAULTS) == expected


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0}, 0.0),
        ({"temperature": 0, "top_p": 0}, 0.0),
    ],
)
def test_decoding_is_greedy_unless_sampling_is_asked_for(settings, temperature):
    assert read_options(settings, DEFAULTS).temperature == temperature


def test_one_stop_string_may_stand_alone():
    assert read_options({"until": "STOP"}, DEFAULTS).until == ("STOP",)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.1},
        {"no_repeat_ngram_size": 2},
        {"temperature": 0.5, "top_k": 10},
        {"num_return_sequences": 4},
        {"bad_words_ids": [[1]]},
    ],
)
def test_settings_that_would_change_the_answer_are_refused_by_name(settings):
    name = list(settings)[-1]
    with pytest.raises(ValueError, match=f"generation setting {name}=.* not supported"):
        read_options(settings, DEFAULTS)


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 1.0}, {"top_k": 10}, {"temperature": 0.5, "top_k": 0}, {"use_cache": True}]
)
def test_settings_without_effect_are_accepted(settings, caplog):
    read_options(settings, DEFAULTS)
    assert not caplog.records


def test_what_is_no_setting_of_decoding_is_mentioned_once(caplog):
    for _ in range(3):
        read_options({"image_aspect_ratio": "original"}, DEFAULTS)
    assert caplog.text.count("image_aspect_ratio=original") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature=-1.0 is negative"),
        ({"temperature": 1, "top_p": 1.5}, r"top_p=1.5 is outside \(0, 1\]"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"num_beams": "two"}, "num_beams='two' is not a whole number"),
    ],
)
def test_impossible_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_options(settings, DEFAULTS)


def test_a_temperature_that_the_user_types_wins_over_the_tasks_greedy_default():
    yaml = {"do_sample": False, "temperature": 0.7}
    for typed, temperature in {"temperature=0.7": 0.7, "temperature=0.7,do_sample=false": 0.0, "": 0.0}.items():
        named = typed_options(SimpleNamespace(gen_kwargs=typed))
        assert read_options(yaml, GenerationOptions(), named).temperature == temperature
    assert typed_options(None) == frozenset()
