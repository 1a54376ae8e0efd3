"""The journal survives the death of its process, and only whole lines count."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.questions import Question
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.journal import EarlierAnswers, Journal, Session, read
from lmms_kvtp.types import GenerationOptions

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


FIRST = '{"journal": 2, "setup": {}}\n'
ODD = ("5", "[]", "{}", '{"key": [], "text": "A", "cost": {}}', '{"key": "k", "text": "A", "cost": 5}')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "A"}\n', "not a journal of format 2"),
        ('{"journal": 1, "setup": {}}\n{"key": "k", "text": "A", "cost": {}}\n', "earlier code.*not resumed"),
        ("{]\n", "is damaged"),
        ("[" * 5000 + "\n", "is damaged: RecursionError"),
        ("5\n", "is damaged"),
        *((f"{FIRST}{line}\n", "is damaged: .*; resume from another journal, or remove its bad lines") for line in ODD),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "some.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"some.jsonl.*{message}"):
        read(tmp_path / "some.jsonl")


SETUP = {"method": {"pruner": "tome"}, "source": "abc"}


@pytest.fixture
def ask(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"frames")
    question = Question("What?", spans=((0.0, 1.0, 1.0),), doc_key="doc-3")
    return Ask("some_task", "1.0", question, (str(tmp_path / "clip.mp4"),), list, GenerationOptions())


def changes(ask):
    yield replace(ask, task="other_task")
    yield replace(ask, version="1.1")
    yield replace(ask, options=replace(ask.options, max_new_tokens=9))
    yield replace(ask, options=replace(ask.options, seed=1))
    for field, value in {"prompt": "Who?", "refined": "who", "spans": None, "doc_key": "doc-4"}.items():
        yield replace(ask, question=replace(ask.question, **{field: value}))


def test_the_key_changes_with_all_that_the_answer_depends_on(ask):
    keys = {Session(SETUP, None, None).key(changed) for changed in changes(ask)}
    keys.add(Session({**SETUP, "source": "abd"}, None, None).key(ask))
    keys.add(Session(SETUP, None, None).key(ask))
    assert len(keys) == 10


def test_the_key_changes_with_the_video_and_not_with_its_folder(ask, tmp_path):
    key = Session(SETUP, None, None).key(ask)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "clip.mp4"
    moved.write_bytes(b"frames")
    assert Session(SETUP, None, None).key(replace(ask, visuals=(str(moved),))) == key
    moved.write_bytes(b"others")
    assert Session(SETUP, None, None).key(replace(ask, visuals=(str(moved),))) != key


def test_an_answer_is_found_and_written_down_again(ask, tmp_path):
    key = Session(SETUP, None, None).key(ask)
    answer = Answer("A", SampleCost(tokens_kept=7))
    journal = Journal.create(tmp_path / "new", "now", 0, SETUP)
    session = Session(SETUP, journal, EarlierAnswers({key: answer}, (SETUP,)))
    other = replace(ask, task="other_task")
    assert session.has(ask) and not session.has(other)
    assert session.find(ask) == answer
    assert session.find(other) is None
    assert session.resumed == 1
    assert read(journal.path).answers == {key: answer}


def test_nothing_is_found_where_nothing_was_asked_for(ask):
    session = Session(SETUP, None, None)
    session.keep(ask, Answer("A", SampleCost()))
    assert not session.has(ask)


def test_failures_are_remembered_with_their_subject(ask):
    session = Session(SETUP, None, None)
    session.keep(ask, Answer("", SampleCost(), "VideoError: gone"))
    assert session.failures == [f"document doc-3 of task some_task on {ask.visuals[0]}: VideoError: gone"]


def test_the_same_question_is_counted(ask):
    session = Session(SETUP, None, None)
    assert [session.count(ask), session.count(ask), session.count(replace(ask, task="other"))] == [0, 1, 0]


FULL = """
import pathlib, resource, signal, sys
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal.create(pathlib.Path(sys.argv[1]), "now", 0, {})
for number in range(3):
    journal.write(str(number), "d", Answer("A", SampleCost()))
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 100, resource.RLIM_INFINITY))
try:
    journal.write("torn", "d", Answer("x" * 1000, SampleCost()))
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.write("later", "d", Answer("B", SampleCost()))
"""


def test_a_folder_that_cannot_be_made_is_named_with_the_ways_out(tmp_path):
    told = r"cannot write /proc/self/journals: .*, or set --output_path, or journal=FOLDER, or journal=none"
    with pytest.raises(OSError, match=told):
        Journal.create(Path("/proc/self/journals"), "now", 0, {})


def test_a_full_disk_is_named_with_the_way_on_and_leaves_no_torn_line(tmp_path):
    run = subprocess.run([sys.executable, "-P", "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    path = tmp_path / "now_journal_rank0.jsonl"
    assert run.stdout == (
        f"[Errno 27] cannot write {path}: File too large; free some space there, and go on with resume={path}\n"
    )
    assert list(read(path).answers) == ["0", "1", "2", "later"]
