import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.skvqa_build.ask import AnswerError, read_caption, read_refined, read_scores

BOUNDS = [(0, 7), (8, 15), (16, 19)]
GOOD = '{"scores": {"8-15": 5, "0-7": 0, "16-19": 2}}'


@pytest.mark.parametrize("text", [GOOD, f"\n{GOOD} ", f"```json\n{GOOD}\n```", f"```\n{GOOD}```"])
def test_scores_come_in_the_order_of_the_clips(text):
    assert read_scores(text, BOUNDS) == (0.0, 5.0, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        (f"Here you are: {GOOD}", "not JSON"),
        (GOOD + GOOD, "not JSON"),
        ("[" * 5000, "not JSON"),
        ("{[0,7]:3,[8,15]:5,[0,7]:1}", "a key occurs twice"),
        ("{[0,7]:3,[8,15]:5}", "clips without a score: 16-19"),
        ("{[0,7]:3,[8,15]:5,[16,19]:7}", "clip 16-19 is 7, not a whole number"),
        ("{[0,7]:3 [8,15]:5,[16,19]:1}", "not JSON"),
        ("{[0,7]:3,[8,15]:5,[16,19]:1.5}", "not JSON"),
        ("__import__('os').system('true')", "not JSON"),
        ('{"scores": {"0-7": 1, "8-15": 2, "16-19": 3}, "note": 1}', 'one key "scores"'),
        ('{"score": {}}', 'one key "scores"'),
        ('{"scores": [1, 2, 3]}', "list, not an object"),
        ('{"scores": {"0-7": 1, "8-15": 2}}', "clips without a score: 16-19"),
        ('{"scores": {"0-7": 1, "8-15": 2, "16-19": 3, "20-27": 1}}', "clips that do not exist: '20-27'"),
        ('{"scores": {"0-7": 1, "8-15": 2, "16-23": 3}}', "without a score: 16-19"),
        ('{"scores": {"0-7": 6, "8-15": 2, "16-19": 3}}', "clip 0-7 is 6, not a whole number from 0 to 5"),
        ('{"scores": {"0-7": -1, "8-15": 2, "16-19": 3}}', "is -1"),
        ('{"scores": {"0-7": 2.5, "8-15": 2, "16-19": 3}}', "is 2.5"),
        ('{"scores": {"0-7": "5", "8-15": 2, "16-19": 3}}', "is '5'"),
        ('{"scores": {"0-7": true, "8-15": 2, "16-19": 3}}', "is True"),
        ('{"scores": {"0-7": NaN, "8-15": 2, "16-19": 3}}', "is nan"),
        ('{"scores": {"0-7": 1, "0-7": 2, "8-15": 2, "16-19": 3}}', "a key occurs twice"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text, message):
    with pytest.raises(AnswerError, match=message):
        read_scores(text, BOUNDS)


@pytest.mark.parametrize("text", ["{[0,7]:0,[8,15]:5,[16,19]:2}", " { [8, 15]: 5 , [0, 7] :0, [16,19]:2 }\n"])
def test_scores_in_the_form_of_the_papers_prompt_are_read_too(text):
    assert read_scores(text, BOUNDS) == (0.0, 5.0, 2.0)


@given(st.text(max_size=80))
def test_no_text_becomes_scores_by_chance(text):
    with pytest.raises(AnswerError):
        read_scores(text, BOUNDS)


def test_a_refined_question_is_one_line_of_bounded_length():
    assert read_refined('{"question": " What\\n color?  Choices: red, blue. "}') == "What color? Choices: red, blue."
    with pytest.raises(AnswerError, match="the question is empty"):
        read_refined('{"question": "  "}')
    with pytest.raises(AnswerError, match="has 61 words, at most 40"):
        read_refined(json.dumps({"question": "why " * 61}))
    with pytest.raises(AnswerError, match='"question" is list, not text'):
        read_refined('{"question": ["Why?"]}')


def test_a_caption_may_be_in_any_language_but_not_empty():
    assert read_caption(" 一个人\n\n走路 ") == "一个人 走路"
    with pytest.raises(AnswerError, match="it is empty"):
        read_caption(" \n")
