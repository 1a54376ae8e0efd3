"""An earlier answer is used only where nothing that it depends on has changed."""

from dataclasses import replace

import pytest

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.questions import Question
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.journal import EarlierAnswers, Journal, Session, read
from lmms_kvtp.types import GenerationOptions

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
    assert session.find(session.key(ask), ask) == answer
    assert session.find(session.key(other), other) is None
    assert session.resumed == 1
    assert read(journal.path).answers == {key: answer}


def test_nothing_is_found_where_nothing_was_asked_for(ask):
    session = Session(SETUP, None, None)
    session.keep(session.key(ask), ask, Answer("A", SampleCost()))
    assert not session.has(ask)


def test_failures_are_remembered_with_their_subject(ask):
    session = Session(SETUP, None, None)
    session.keep("key", ask, Answer("", SampleCost(), "VideoError: gone"))
    assert session.failures == [f"document doc-3 of task some_task on {ask.visuals[0]}: VideoError: gone"]


def test_the_same_question_is_counted(ask):
    session = Session(SETUP, None, None)
    assert [session.count(ask), session.count(ask), session.count(replace(ask, task="other"))] == [0, 1, 0]
