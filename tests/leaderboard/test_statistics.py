"""Each figure of a page against scipy's or statsmodels' of the same samples, with planted differences."""

import math
import random

import numpy as np
import pytest
import scipy.stats

from lmms_kvtp.leaderboard.runs import Run, ScoredAnswer
from lmms_kvtp.leaderboard.stats import (
    accuracy,
    bootstrap_interval,
    detectable,
    difference,
    equality,
    flips,
    holm,
    p_value,
    questions_needed,
)
from lmms_kvtp.leaderboard.task_score import relative

sm = pytest.importorskip("statsmodels.api")
from statsmodels.stats import contingency_tables, multitest, power, weightstats  # noqa: E402


def planted(seed: int, lost: float, gained: float, videos: int = 60, per_video: int = 3) -> tuple[Run, Run]:
    draw = random.Random(seed)
    ours, base = [], []
    for _ in range(videos):
        hard = draw.random() < 0.3
        for _ in range(per_video):
            right = draw.random() < (0.4 if hard else 0.8)
            base.append(float(right))
            ours.append(float(draw.random() >= lost if right else draw.random() < gained))
    made = [
        tuple(ScoredAnswer(f"q{i:04}", f"v{i // per_video}", "", s, None, None) for i, s in enumerate(scores))
        for scores in (ours, base)
    ]
    return Run("x", "a", made[0], {}), Run("y", "a", made[1], {})


CASES = [planted(1, 0.1, 0.1), planted(2, 0.4, 0.05), planted(3, 0.02, 0.5), planted(4, 0.2, 0.2, 150, 1)]


def fitted(values, videos):
    """A mean as a regression on a constant, with errors clustered by video and no small-sample factor."""
    groups = np.unique(videos, return_inverse=True)[1]
    how = {"groups": groups, "use_correction": False, "df_correction": False}
    return sm.OLS(np.array(values), np.ones(len(values))).fit(cov_type="cluster", cov_kwds=how)


def parts(case):
    ours, base = ([answer.score for answer in run.answers] for run in case)
    return np.array(ours), np.array(base), [answer.video for answer in case[0].answers]


@pytest.mark.parametrize("case", CASES)
def test_means_and_errors_are_those_of_a_clustered_regression(case):
    ours, base, videos = parts(case)
    for found, values in ((accuracy(case[0]), ours), (difference(*case), ours - base)):
        fit = fitted(values, videos)
        assert found.mean == pytest.approx(100 * fit.params[0])
        assert found.stderr == pytest.approx(100 * fit.bse[0], rel=0.004)  # the harness's own factor is near 1


@pytest.mark.parametrize("case", CASES)
def test_the_error_of_a_ratio_is_the_delta_method_s(case):
    ours, base, videos = parts(case)
    n, groups = len(ours), np.unique(videos, return_inverse=True)[1]
    sums = np.stack([np.bincount(groups, v - v.mean()) for v in (ours, base)])
    gradient = np.array([1 / base.mean(), -ours.mean() / base.mean() ** 2])
    expected = math.sqrt(gradient @ (sums @ sums.T / n**2) @ gradient)
    assert relative(*case).stderr == pytest.approx(100 * expected, rel=0.004)


@pytest.mark.parametrize("case", CASES)
def test_p_values_are_those_of_t_and_of_mcnemar(case):
    ours, base, videos = parts(case)
    gap, clusters = difference(*case), len(set(videos))
    statistic = gap.mean / gap.stderr
    assert p_value(gap, clusters) == pytest.approx(2 * scipy.stats.t(clusters - 1).sf(abs(statistic)))
    if clusters == len(videos):
        assert p_value(gap, clusters) == pytest.approx(scipy.stats.ttest_rel(ours, base).pvalue)
    table = [[np.sum((ours == a) & (base == b)) for b in (1, 0)] for a in (1, 0)]
    assert flips(*case).p_value == pytest.approx(contingency_tables.mcnemar(table, exact=True).pvalue)


def test_equality_is_two_one_sided_tests_where_differences_are_not_few():
    ours, base, _ = parts(planted(5, 0.3, 0.6, 400, 1))
    case = planted(5, 0.3, 0.6, 400, 1)
    margin = 100 * abs((ours - base).mean()) + 12  # so far that the error at the margin is the error
    theirs = weightstats.ttost_paired(ours, base, -margin / 100, margin / 100)[0]
    mine = equality(*case, margin)[0]
    gap, videos = difference(*case), 400
    student = scipy.stats.t(videos - 1)
    assert theirs == pytest.approx(student.sf((margin - abs(gap.mean)) / gap.stderr), rel=1e-6)
    assert theirs <= mine < 30 * theirs + 1e-6


def test_equality_never_says_more_than_two_one_sided_tests():
    for seed in range(40):
        case = planted(seed, 0.02, 0.02 + seed / 200, 150, 1)
        ours, base, _ = parts(case)
        theirs = weightstats.ttost_paired(ours, base, -0.03, 0.03)[0] if (ours != base).any() else 0.0
        if theirs < 0.5:
            assert equality(*case, 3.0)[0] >= theirs - 1e-12


def test_the_correction_is_holm_s():
    for seed in range(5):
        draw = random.Random(seed)
        values = [draw.random() ** 3 for _ in range(7)]
        assert holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1])


@pytest.mark.parametrize("case", CASES)
def test_the_interval_is_scipy_s_of_means_of_whole_videos(case):
    ours, base, videos = parts(case)
    groups = np.unique(videos, return_inverse=True)[1]
    means = np.bincount(groups, ours - base) / np.bincount(groups)
    found = scipy.stats.bootstrap((means,), np.mean, n_resamples=4000, method="percentile", rng=3).confidence_interval
    width = found.high - found.low
    assert bootstrap_interval(*case) == pytest.approx((100 * found.low, 100 * found.high), abs=100 * width * 0.08)


def test_power_is_that_of_a_normal_test():
    gap = difference(*CASES[1])
    spread = gap.stderr / 100 * math.sqrt(gap.count)
    theirs = power.NormalIndPower(ddof=0)
    size = theirs.solve_power(nobs1=gap.count, alpha=0.05, power=0.8, ratio=0)
    assert detectable(gap) == pytest.approx(100 * size * spread, rel=1e-3)
    needed = theirs.solve_power(effect_size=abs(gap.mean) / 100 / spread, alpha=0.05, power=0.8, ratio=0)
    assert questions_needed(gap) == math.ceil(needed)
