"""Questions on one video meet on one rank, the work is divided evenly, and every answer finds its way back."""

import multiprocessing
import os
import pickle
from collections import Counter

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.questions import Question
from lmms_kvtp.run.answerer import SampleError
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.ranks import divide, send_back, share_out
from lmms_kvtp.types import GenerationOptions


def ask(number, *visuals):
    def cannot_be_sent():
        return list(visuals)

    return Ask("task", "1", Question(prompt=f"question {number}"), visuals, cannot_be_sent, GenerationOptions())


QUESTIONS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), st.booleans()), max_size=9)


@given(ranks=st.lists(QUESTIONS, min_size=1, max_size=4))
def test_every_question_goes_to_one_rank_and_videos_stay_together(ranks):
    asked = [[(i, (name,) if name else (), travels) for i, (name, travels) in enumerate(theirs)] for theirs in ranks]
    shares = divide(asked)
    places = [place for share in shares for place in share]
    assert sorted(places) == [(rank, i) for rank, theirs in enumerate(asked) for i, _, _ in theirs]
    on = {place: rank for rank, share in enumerate(shares) for place in share}
    about = {(rank, i): (visuals, travels) for rank, theirs in enumerate(asked) for i, visuals, travels in theirs}
    for name in ("a", "b", "c"):
        assert len({on[place] for place, (visuals, travels) in about.items() if visuals == (name,) and travels}) <= 1
    assert all(on[place] == place[0] for place, (_, travels) in about.items() if not travels)


def test_work_is_divided_evenly_and_in_the_order_of_asking():
    asked = [
        [(0, ("a",), True), (1, ("b",), True), (2, (), True)],
        [(0, ("c",), True), (1, ("a",), True), (2, (), True)],
    ]
    assert divide(asked) == [[(0, 0), (1, 0), (1, 1)], [(0, 1), (0, 2), (1, 2)]]


def test_one_process_keeps_its_questions_as_they_are():
    asks = {4: ask(4, "a.mp4"), 7: ask(7, "3 images 0123456789abcdef"), 9: ask(9)}
    own, everywhere = share_out(asks)
    assert own == {(0, i): question for i, question in asks.items()}
    assert [question.load for question in own.values()] == [question.load for question in asks.values()]
    assert len(everywhere) == 3
    answers = {place: Answer(str(place), SampleCost()) for place in own}
    assert send_back(answers, None) == answers
    failure = SampleError("document 4")
    with pytest.raises(SampleError) as caught:
        send_back({}, failure)
    assert caught.value is failure


def _rank(rank, port, results, fails):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mine = [["a.mp4", "b.mp4", "2 images 0123456789abcdef"], ["b.mp4", "a.mp4", "a.mp4", "", "c.mp4"]][rank]
    asks = {i + 5: ask(f"{rank}-{i}", *filter(None, [name])) for i, name in enumerate(mine)}
    own, everywhere = share_out(asks)
    done = {place: Answer(question.question.prompt, SampleCost(num_frames=rank)) for place, question in own.items()}
    assert all(question.load() == list(question.visuals) for question in own.values())
    try:
        found = send_back(done, SampleError("b.mp4 is broken") if fails and rank == 1 else None)
        told = {place: (answer.text, answer.cost.num_frames) for place, answer in found.items()}
    except SampleError as error:
        told = str(error)
    results.put(
        pickle.dumps((rank, [(place, question.visuals) for place, question in own.items()], told, len(everywhere)))
    )
    dist.destroy_process_group()


def two_ranks(port, fails=False):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, port, results, fails)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    found = sorted(pickle.loads(results.get(timeout=60)) for _ in ranks)
    for rank in ranks:
        rank.join()
    return found


def test_two_ranks_exchange_questions_and_get_their_answers_back():
    (_, first, told_first, _), (_, second, told_second, known) = two_ranks(29713)
    assert told_first == told_second
    assert {place: text for place, (text, _) in told_first.items()} == {
        (rank, i + 5): f"question {rank}-{i}" for rank, count in ((0, 3), (1, 5)) for i in range(count)
    }
    videos = [Counter(visuals for _, visuals in share) for share in (first, second)]
    assert not {("a.mp4",), ("b.mp4",), ("c.mp4",)} & set(videos[0]) & set(videos[1])
    assert ("2 images 0123456789abcdef",) in videos[0]  # stays where it is
    assert known == 7  # all but the images of the other rank
    assert {frames for _, frames in told_first.values()} == {0, 1}


def test_a_failure_on_one_rank_ends_all():
    (_, _, first, _), (_, _, second, _) = two_ranks(29714, fails=True)
    assert (first, second) == ("on rank 1: b.mp4 is broken", "b.mp4 is broken")
