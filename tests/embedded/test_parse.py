"""Answers are read by letter or by option text; what means nothing, or two things, is None."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.embedded.questions import chosen_letter

COLORS = ("red", "blue", "white", "green")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b", "B"), (" (C)\n", "C"), ("D.", "D"), ("A. red", "A"), ("B. red", "B"), ("B) blue", "B"),
        ("Answer: C", "C"), ("The answer is D.", "D"), ("The best answer is: A", "A"), ("I choose option B", "B"),
        ("It is C because", "C"), ("I think D", "D"),
        ("blue", "B"), ("White.", "C"), ("The star is green", "D"), ("A red one", "A"),
        ("A green star", "D"), ("the answer is a white star", "C"), ("The answer is A blue star", "B"),
        ("", None), ("purple", None), ("red or blue", None), ("B or C", None), ("redder", None), ("E", None),
        ("I do not know", None), ("Not B but red", "B"),
    ],
)  # fmt: skip
def test_an_answer_is_read(text: str, letter: str | None) -> None:
    assert chosen_letter(text, COLORS) == letter


@given(st.text(max_size=30), st.permutations(COLORS))
def test_reading_never_fails_or_guesses(text: str, options: list[str]) -> None:
    first = chosen_letter(text, options)
    assert first is None or first in "ABCD"
    assert first == chosen_letter(text, options)
