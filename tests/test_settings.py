"""Settings that arrive as text."""

from typing import Literal

import pytest

from lmms_kvtp.settings import parse


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3", 3),
        (float, "2", 2.0),
        (float, "1e-3", 1e-3),
        (bool, "True", True),
        (bool, "0", False),
        (str, "a=b", "a=b"),
        (int | None, "None", None),
        (int | None, "7", 7),
        (Literal["row", "frame"], "row", "row"),
        (tuple[float, ...], "1:2.5", (1.0, 2.5)),
    ],
)
def test_text_becomes_a_value_of_the_field_kind(kind, text, value):
    parsed = parse(kind, text, "x")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (int, "two", "x='two' is not a whole number"),
        (int, 2.5, "x=2.5 is not a whole number"),
        (float, "fast", "x='fast' is not a number"),
        (bool, "maybe", "x='maybe' is not true or false"),
        (Literal["row", "frame"], "col", "x='col' is not one of row, frame"),
        (int | None, "two", "x='two' is not a whole number"),
    ],
)
def test_what_does_not_fit_is_named(kind, text, message):
    with pytest.raises(ValueError, match=message):
        parse(kind, text, "x")
