"""Tokenizers of the tiny model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.embedded_model.language import PREFIX, SUFFIX, word_id
from benchmarks.embedded_model.run import make_tokenizers
from benchmarks.embedded_model.student import Geometry
from lmms_kvtp.embedded.questions import ask, words
from lmms_kvtp.embedded.script import COLORS, DECOYS, GLYPHS, PLACES, write_script

LETTERS, CAPTIONS = make_tokenizers(Geometry())


@pytest.mark.parametrize("word", [*PLACES, *GLYPHS, *DECOYS, *COLORS])
def test_every_name_is_one_token(word: str) -> None:
    assert LETTERS.decode([word_id(LETTERS, word)]) == f" {word}"


def test_a_word_of_several_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'zebra' is \d tokens, not 1; train the tokenizer on a text that has it"):
        word_id(LETTERS, "zebra")


def test_every_word_of_a_prompt_is_a_token_of_its_own() -> None:
    for question in ask(write_script(3, "test")):
        tokens = LETTERS(question.prompt)["input_ids"]
        pieces = [LETTERS.decode([token]).strip() for token in tokens]
        known = {*words(), "?", ".", "option", "'s", ""}
        assert set(pieces) <= known, set(pieces) - known


@given(st.text())
def test_any_text_survives(text: str) -> None:
    assert LETTERS.decode(LETTERS(text, add_special_tokens=False)["input_ids"]) == text


def test_the_chat_template_has_its_markers_as_single_tokens() -> None:
    ids = LETTERS(PREFIX + SUFFIX)["input_ids"]
    assert ids.count(LETTERS.convert_tokens_to_ids("<|im_start|>")) == 3
    assert ids.count(LETTERS.eos_token_id) == 2
    assert len(LETTERS(PREFIX)["input_ids"]) == 14  # as LLaVA-Video's: its visual block starts at index 14


def test_captions_are_lower_cased_ended_and_padded_to_the_length_of_the_text_tower() -> None:
    shouted, plain = (
        CAPTIONS(text, padding="max_length")["input_ids"]
        for text in ("WHAT color, is the STAR?!", "what color is the star")
    )
    assert shouted == plain
    assert len(plain) == Geometry().text_positions
    assert plain[5:] == [CAPTIONS.eos_token_id] * (len(plain) - 5)
    assert CAPTIONS.eos_token_id not in plain[:5]
