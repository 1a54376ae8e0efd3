"""The journal survives the death of its process, and only whole lines count."""

import json

import pytest

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.journal import Journal, read

COST = SampleCost(num_frames=3, tokens_kept=7, layer_lengths=(9, 5), seconds={"vision": 0.25}, flops={"prefill": 11})


def test_answers_come_back_as_they_were(tmp_path):
    journal = Journal.create(tmp_path / "new", "20260101_120000", 2, {"seed": 1})
    journal.write("key-1", "task:doc", Answer("Größe\n", COST))
    assert journal.path.name == "20260101_120000_journal_rank2.jsonl"
    record = read(journal.path)
    assert record.answers == {"key-1": Answer("Größe\n", COST)}
    assert record.setups == ({"seed": 1},)


def test_a_failed_sample_is_recorded_and_tried_again(tmp_path):
    journal = Journal.create(tmp_path, "now", 0, {})
    journal.write("key-1", "task:doc", Answer("", SampleCost(), "VideoError: gone"))
    assert read(tmp_path).answers == {}
    assert json.loads(journal.path.read_text().splitlines()[1])["error"] == "VideoError: gone"


@pytest.mark.parametrize("cut", [1, 40, 150])
def test_a_torn_last_line_costs_one_answer_only(tmp_path, cut):
    journal = Journal.create(tmp_path, "now", 0, {})
    for number in range(3):
        journal.write(f"key-{number}", "task:doc", Answer("A", COST))
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    assert list(read(journal.path).answers) == ["key-0", "key-1"]


def test_a_journal_never_overwrites_another(tmp_path):
    first, second = (Journal.create(tmp_path, "now", 0, {}) for _ in range(2))
    assert [first.path.name, second.path.name] == ["now_journal_rank0.jsonl", "now-2_journal_rank0.jsonl"]


def test_a_folder_stands_for_all_journals_below_it(tmp_path):
    for rank in range(2):
        journal = Journal.create(tmp_path / f"run{rank}", "now", rank, {"rank": rank})
        journal.write(f"key-{rank}", "task:doc", Answer("A", COST))
    (tmp_path / "run0" / "died_journal_rank5.jsonl").write_text('{"journal": 1, "se')
    record = read(tmp_path)
    assert set(record.answers) == {"key-0", "key-1"}
    assert len(record.setups) == 2


def test_what_differs_is_named_by_the_nearest_journal(tmp_path):
    for number, setup in enumerate([{"seed": 1, "source": "b"}, {"seed": 2, "source": "b"}]):
        Journal.create(tmp_path, f"run{number}", 0, setup)
    record = read(tmp_path)
    assert record.difference({"seed": 1, "source": "a"}) == ["source"]
    assert record.difference({"seed": 2, "source": "b"}) == []


def test_nothing_to_resume_from_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no journal to resume from"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match="no journal to resume from"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "A"}\n', "not a journal of format 2"),
        ('{"journal": 1, "setup": {}}\n{"key": "k", "text": "A", "cost": {}}\n', "earlier code.*not resumed"),
        ("{]\n", "is damaged"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "some.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"some.jsonl.*{message}"):
        read(tmp_path / "some.jsonl")
