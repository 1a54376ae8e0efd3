"""The test split is large, balanced, and the same wherever it is built."""

import json
from collections import Counter
from pathlib import Path

import pytest

from lmms_kvtp.embedded import dataset
from lmms_kvtp.embedded.questions import LETTERS

TASK = Path(__file__).parents[2] / "tasks" / "skvqa_synth"


@pytest.fixture(scope="module")
def documents() -> list[dataset.Document]:
    return dataset.build("test", dataset.NUM_VIDEOS["test"])


def test_the_split_has_its_promised_size(documents: list[dataset.Document]) -> None:
    assert len(documents) >= 600
    assert len({doc["video_id"] for doc in documents}) >= 150
    assert len({doc["question_id"] for doc in documents}) == len(documents)
    assert set(Counter(doc["video_id"] for doc in documents).values()) == {dataset.QUESTIONS_PER_VIDEO}


@pytest.mark.parametrize("num_videos", [dataset.QUICK_VIDEOS, dataset.NUM_VIDEOS["test"]])
def test_kinds_and_letters_are_balanced(documents: list[dataset.Document], num_videos: int) -> None:
    some = documents[: num_videos * dataset.QUESTIONS_PER_VIDEO]
    kinds = Counter(doc["kind"] for doc in some)
    assert set(kinds) == set(dataset.SHIPPED_KINDS)
    assert min(kinds.values()) >= 0.85 * len(some) / len(dataset.SHIPPED_KINDS)
    for kind in dataset.SHIPPED_KINDS:
        letters = Counter(doc["answer"] for doc in some if doc["kind"] == kind)
        assert max(letters.values()) - min(letters[letter] for letter in LETTERS) <= 1


def test_fewer_videos_give_the_first_documents(documents: list[dataset.Document]) -> None:
    assert dataset.build("test", 9) == documents[: 9 * dataset.QUESTIONS_PER_VIDEO]


def test_splits_have_different_questions(documents: list[dataset.Document]) -> None:
    assert {str(doc["video_id"]) for doc in dataset.build("val", 3)}.isdisjoint(doc["video_id"] for doc in documents)


@pytest.mark.parametrize("split", ["test", "sealed"])
def test_this_machine_makes_the_pinned_videos(split: str) -> None:
    pinned = [json.loads(line) for line in (TASK / f"{split}.jsonl").read_text().splitlines()]
    assert len(pinned) == dataset.NUM_VIDEOS[split]
    dataset.check_pins(split, pinned[:40])


def test_the_sealed_split_is_large_and_shares_no_video_with_another(documents: list[dataset.Document]) -> None:
    sealed = dataset.build("sealed", dataset.NUM_VIDEOS["sealed"])
    assert len(sealed) >= 400
    own = {row["script"] for row in dataset.pins("sealed", 40)}
    assert all(own.isdisjoint(row["script"] for row in dataset.pins(split, 40)) for split in ("test", "val", "train"))


def test_another_video_than_the_pinned_one_is_refused() -> None:
    pinned = dataset.pins("test", 3)
    pinned[2]["script"] = "0" * 32
    with pytest.raises(RuntimeError, match=r"test-00002.*not be comparable; reinstall lmms-kvtp"):
        dataset.check_pins("test", pinned)


def test_wrong_requests_name_the_way_out() -> None:
    with pytest.raises(ValueError, match="no question kind named 'colour'; available: color, where"):
        dataset.build("test", 1, kinds=("colour",))
    with pytest.raises(ValueError, match="cannot ask 4 questions of 2 kinds per video"):
        dataset.build("test", 1, kinds=("color", "where"))
