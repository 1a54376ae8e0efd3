import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.embedded.dataset import build
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.oracle import Oracle
from lmms_kvtp.types import FrameFeatures

NOBODY = Siglip("no/such/checkpoint")


def scores(spans, times, scale=5.0):
    return Oracle(scale).score(FrameFeatures(torch.tensor(times)), Question("Who?", spans=spans), NOBODY).tolist()


def test_a_frame_has_the_score_of_the_span_that_holds_it():
    assert scores(((1.0, 3.0, 4.0), (5.0, 5.5, 2.0)), [0.0, 1.0, 2.0, 3.0, 5.25]) == [0.0, 4.0, 4.0, 0.0, 2.0]


def test_the_best_of_overlapping_spans_counts():
    assert scores(((0.0, 3.0, 1.0), (2.0, 4.0, 3.0)), [1.0, 2.0, 3.5]) == [1.0, 3.0, 3.0]


def test_times_may_be_rounded_by_the_container():
    assert scores(((1.0, 3.0, 1.0),), [0.9995, 2.9985, 2.9995]) == [1.0, 1.0, 0.0]


def test_an_event_between_two_frames_lends_its_score_to_the_nearer_one():
    assert scores(((2.6, 2.8, 3.0), (0.0, 0.5, 1.0)), [0.0, 2.0, 4.0]) == [1.0, 3.0, 0.0]


def test_all_frames_are_equal_for_a_question_on_the_whole_video():
    assert scores((), [0.0, 7.0]) == [1.0, 1.0]


@pytest.mark.parametrize("scale", [5.0, 1.0, 0.5])
def test_the_scale_is_the_relevance_of_the_highest_label(scale):
    assert scores(((0.0, 1.0, 5.0), (2.0, 3.0, 2.0)), [0.0, 1.5, 2.0], scale) == pytest.approx([scale, 0, 0.4 * scale])


def test_key_frames_of_the_synthetic_benchmark_get_12_times_the_share_of_others_at_the_papers_temperature():
    doc = next(doc for doc in build("test", 2) if doc["kind"] == "color")
    ((start, end, score),) = doc["spans"]
    relevance = torch.tensor(scores(((start, end, score),), [0.0, start, (start + end) / 2, doc["duration"]]))
    budgets = Softmax().allocate(relevance, 1000, 1000)
    assert budgets.tolist() == [38, 462, 462, 38]  # exp(5 / 2) = 12.2; labels of 0 and 1 would give 1.6


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_without_an_order_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale=.* must be finite and > 0; the labels' own scale is 5"):
        Oracle(scale)


def test_a_task_without_spans_is_refused_by_name():
    question = Question("Who?", doc_key="videomme:12")
    with pytest.raises(ValueError, match=r"scorer oracle reads ground truth that question 'videomme:12' does not have"):
        Oracle().score(FrameFeatures(torch.arange(3.0)), question, NOBODY)


@given(cuts=st.lists(st.integers(0, 40), min_size=2, max_size=6, unique=True))
def test_frames_within_equal_spans_are_relevant_and_others_are_not(cuts):
    spans = [(cuts[i] / 4, (cuts[i] + 5) / 4) for i in range(len(cuts))]  # longer than a step: each holds a frame
    times = [index * 1.0 for index in range(12)]
    assert scores(tuple((*span, 1.0) for span in spans), times) == [
        float(any(start <= t < end for start, end in spans)) for t in times
    ]
