"""Generation settings are honoured, or refused by name; what is no setting of decoding is mentioned once."""

import pytest

from lmms_kvtp.harness.gen_kwargs import read_options
from lmms_kvtp.types import GenerationOptions

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
