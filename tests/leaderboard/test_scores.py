"""Finding score, video and kind in the rows of different tasks."""

import pytest

from lmms_kvtp.leaderboard.runs import KINDS, VIDEOS, SampleFields, first_of, score

VIDEOMME = {
    "doc_id": 3,
    "videomme_perception_score": {"question_id": "601-1", "pred_answer": "b", "answer": "B ", "task_category": "OCR"},
    "videoID": "ignored",
}


def test_the_score_at_the_top_counts_before_any_item():
    assert score({"score": 0.25, "acc": {"score": 1.0}}, SampleFields(("acc",))) == 0.25


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ({"score": 1.0}, 1.0),
        ({"pred_answer": "B", "answer": "b"}, 1.0),
        ({"pred": "1", "ground_truth": 2}, 0.0),
        (True, 1.0),
        (0.5, 0.5),
    ],
)
def test_a_metric_gives_the_score_where_the_row_has_none(item, value):
    assert score({"metric": item}, SampleFields(("absent", "metric"))) == value


def test_the_first_metric_with_a_score_counts():
    assert score({"one": {"score": 1.0}, "two": {"score": 0.0}}, SampleFields(("one", "two"))) == 1.0


def test_video_mme_rows_are_read_without_any_task_settings():
    fields = SampleFields.of({})
    assert score(VIDEOMME, fields) == 1.0
    assert first_of(VIDEOMME, ("question_id",), fields) == "601-1"
    assert first_of(VIDEOMME, KINDS, fields) == "OCR"
    assert first_of(VIDEOMME, VIDEOS, fields) == "ignored"


def test_the_task_names_its_own_keys():
    fields = SampleFields.of({"score_key": "points", "cluster_key": "clip", "metric_list": [{"metric": "m"}]})
    assert score({"points": 0.75, "score": 0.0}, fields) == 0.75
    assert (fields.metrics, fields.cluster_key) == (("m",), "clip")


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_a_score_that_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=r"is not within 0 and 1"):
        score({"score": value}, SampleFields())


def test_a_row_without_score_names_what_was_looked_for():
    with pytest.raises(KeyError, match="looked for score and for items of acc, f1"):
        score({"acc": {"text": "A"}}, SampleFields(("acc", "f1")))
