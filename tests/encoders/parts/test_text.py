from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.encoders.parts.text import split_text


def at_most(characters: int) -> Callable[[str], bool]:
    return lambda text: len(text) <= characters


def test_a_text_that_fits_stays_whole():
    assert split_text("Who.  Is it?", at_most(12)) == ["Who.  Is it?"]
    assert split_text("", at_most(0)) == [""]


def test_sentences_stay_whole_where_they_fit():
    assert split_text("Who is it? A man. And where?", at_most(18)) == ["Who is it? A man.", "And where?"]


def test_a_long_sentence_is_cut_between_words():
    assert split_text("Yes. What does the man hold? A cup.", at_most(14)) == [
        "Yes.",
        "What does the",
        "man hold?",
        "A cup.",
    ]


def test_the_rest_of_a_long_sentence_takes_the_next_sentence_along():
    assert split_text("What does the man hold? A cup.", at_most(17)) == ["What does the man", "hold? A cup."]


def test_only_a_word_that_does_not_fit_is_cut_within():
    assert split_text("see abcdefgh now", at_most(5)) == ["see", "abcd", "efgh", "now"]


def test_of_many_words_few_pieces_are_tried():
    tried: list[str] = []
    pieces = split_text("word " * 200, lambda text: (tried.append(text), len(text) < 250)[1])
    assert len(pieces) == 4
    assert len(tried) < 60


def test_a_tower_that_reads_nothing_is_an_error():
    with pytest.raises(ValueError, match="'x' does not fit"):
        split_text("x y", at_most(0))


@given(
    words=st.lists(st.text("abc.?é", min_size=1, max_size=9), min_size=1, max_size=30),
    limit=st.integers(1, 25),
)
def test_pieces_fit_and_hold_all_characters_in_order(words, limit):
    pieces = split_text(" ".join(words), at_most(limit))
    assert all(len(piece) <= limit for piece in pieces)
    assert "".join(pieces).replace(" ", "") == "".join(words)


@given(words=st.lists(st.text("abc.?é", min_size=1, max_size=6), min_size=1, max_size=30), limit=st.integers(6, 25))
def test_no_word_is_cut_that_fits(words, limit):
    pieces = split_text(" ".join(words), at_most(limit))
    assert [word for piece in pieces for word in piece.split()] == words
    assert all(len(f"{left} {right.split()[0]}") > limit or left[-1] in ".?" for left, right in pairwise(pieces))
