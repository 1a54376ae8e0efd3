import numpy as np
import pytest
import torch

from lmms_kvtp.predictor.measure import mean_by_video, measure_scores, paired_bootstrap

LABELS = torch.tensor([0.0, 5.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_perfect_scores_are_perfect_in_every_measure():
    found = measure_scores(LABELS * 10, LABELS)
    assert (found["auroc"], found["average_precision"], found["recall"]) == (1.0, 1.0, 1.0)
    assert found["ndcg"] == pytest.approx(1.0) and found["budget_share"] > 0.95


def test_equal_scores_are_chance():
    found = measure_scores(torch.zeros(10), LABELS)
    assert found["auroc"] == 0.5
    assert found["average_precision"] == found["recall"] == pytest.approx(0.2)
    assert found["budget_share"] == pytest.approx(0.2, abs=0.01) and found["sparsity"] == pytest.approx(1.0)


def test_measures_of_a_ranking_worked_out_by_hand():
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0])  # key frames at places 2 and 5
    found = measure_scores(scores, LABELS)
    assert found["auroc"] == pytest.approx((7 + 5) / 16)
    assert found["average_precision"] == pytest.approx((1 / 2 + 2 / 5) / 2)
    assert found["ndcg"] == pytest.approx((5 / np.log2(3) + 3 / np.log2(6)) / (5 + 3 / np.log2(3)))
    assert found["recall"] == 0.5
    rates = torch.softmax(scores / 2, dim=0)
    assert found["sparsity"] == pytest.approx(10 * rates.max().item(), rel=1e-5)


def test_recall_counts_only_as_many_key_frames_as_there_is_room_for():
    labels = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert measure_scores(labels, labels)["recall"] == pytest.approx(1.0)


def test_a_sharper_allocation_puts_more_tokens_on_key_frames():
    shares = [measure_scores(LABELS, LABELS, temperature)["budget_share"] for temperature in (8.0, 2.0, 0.5)]
    assert shares == sorted(shares) and shares[0] < shares[2]


def test_a_question_on_the_whole_video_has_no_key_frames():
    with pytest.raises(ValueError, match="all 4 labels are 3"):
        measure_scores(torch.arange(4.0), torch.full((4,), 3.0))


def test_videos_weigh_the_same_however_many_questions_they_have():
    row = measure_scores(LABELS, LABELS)
    rows = [("a", {**row, "recall": 1.0}), ("a", {**row, "recall": 0.0}), ("b", {**row, "recall": 1.0})]
    assert mean_by_video(rows)["recall"] == 0.75


def test_the_bootstrap_pairs_videos():
    theirs = np.random.default_rng(1).normal(size=40) * 10
    mean, low, high = paired_bootstrap(theirs + np.linspace(0.9, 1.1, 40), theirs)
    assert mean == pytest.approx(1.0) and 0.95 < low < mean < high < 1.05


def test_rates_are_calibrated_where_they_are_those_of_the_labels():
    assert measure_scores(LABELS, LABELS, temperature=1.0)["calibration"] == pytest.approx(0.0, abs=1e-9)
    assert measure_scores(2 * LABELS + 7, LABELS, temperature=2.0)["calibration"] == pytest.approx(0.0, abs=1e-6)
    rates = torch.softmax(LABELS.double(), dim=0)
    flat = float((rates * (rates * 10).log()).sum())
    assert measure_scores(torch.zeros(10), LABELS)["calibration"] == pytest.approx(flat)
    assert np.isfinite(measure_scores(LABELS * 1e4, LABELS)["calibration"])
