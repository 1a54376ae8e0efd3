"""Nobody answers without watching; and the readers would find a leak if there were one."""

from collections.abc import Sequence

import pytest

from benchmarks.blind import measure
from lmms_kvtp.embedded.dataset import Document, build
from lmms_kvtp.embedded.questions import KINDS, LETTERS

LANGUAGE_ONLY = (
    "majority letter",
    "most frequent answer word",
    "rarest option word",
    "longest option",
    "bag of words",
)


@pytest.fixture(scope="module")
def splits() -> tuple[list[Document], list[Document]]:
    return build("train", 45, KINDS, per_video=5), build("test", 60, KINDS, per_video=5)


def test_language_alone_stays_at_chance(splits: tuple[list[Document], list[Document]]) -> None:
    train, test = splits
    four_errors = 4 * 100 * (0.25 * 0.75 / len(test)) ** 0.5
    table = measure(train, test)
    for reader in LANGUAGE_ONLY:
        assert table[reader]["all"] == pytest.approx(25, abs=four_errors), reader


def test_the_most_shown_place_is_no_shortcut_but_where_it_is_the_answer(
    splits: tuple[list[Document], list[Document]],
) -> None:
    table = measure(*splits)
    assert table["place shown most"]["main"] == 100
    for kind in ("where", "start", "end"):
        assert table["place shown most"][kind] < 50, kind
        assert table["place shown least"][kind] < 50, kind


@pytest.mark.parametrize(
    ("leak", "reader"),
    [("letter", "majority letter"), ("word", "most frequent answer word"), ("pair", "bag of words")],
)
def test_a_leak_is_found(splits: tuple[list[Document], list[Document]], leak: str, reader: str) -> None:
    train, test = (leaky(documents, leak) for documents in splits)
    table = measure(train, test)
    assert table[reader]["all"] > 38


def leaky(documents: Sequence[Document], leak: str) -> list[Document]:
    """Documents whose letter, in two fifths of the cases, is fixed or follows from the words."""
    out = []
    for index, doc in enumerate(documents):
        options = [str(option) for option in doc["options"]]  # type: ignore[attr-defined]
        answer = {
            "letter": "B",
            "word": LETTERS[options.index(min(options))],
            "pair": LETTERS[options.index(min(options) if "star" in str(doc["question"]) else max(options))],
        }[leak]
        out.append({**doc, "answer": answer} if index % 5 < 2 else doc)
    return out
