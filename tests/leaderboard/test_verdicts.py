"""Statistics against hand calculation, and verdicts on runs whose truth is known."""

import math
import random

import pytest
import scipy.stats
from helpers.harness_files import BASE, OURS, read_board, samples, write_base, write_run

from lmms_kvtp.leaderboard.runs import Run, ScoredAnswer, content
from lmms_kvtp.leaderboard.stats import (
    Estimate,
    Flips,
    bootstrap_interval,
    changed,
    detectable,
    difference,
    equality,
    flips,
    holm,
    overlap,
    p_value,
    questions_needed,
)
from lmms_kvtp.leaderboard.verdicts import Comparison, compare, judge, verdict_table


def run(name: str, scores: list, per_video: int = 2, task: str = "a") -> Run:
    records = tuple(
        ScoredAnswer(f"q{i:05}", f"v{i // per_video}", "", float(s), None, None) for i, s in enumerate(scores)
    )
    return Run(name, task, records, {})


def drawn(share: float, count: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [float(draw.random() < share) for _ in range(count)]


def test_holm_multiplies_step_by_step_and_never_descends():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == [0.8, 0.9]
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_holm_leaves_out_what_has_no_p_value():
    first, second, third = holm([0.01, math.nan, 0.04])
    assert (first, third) == (0.02, 0.04) and math.isnan(second)


def test_flips_are_counted_in_their_direction():
    ours, base = run("x", [1, 1, 1, 0, 0, 1.0]), run("y", [0, 0, 1, 1, 0, 0.0])
    found = flips(ours, base)
    assert (found.gained, found.lost) == (3, 1)
    assert found.p_value == pytest.approx(2 * (1 + 4) / 2**4)  # P(X <= 1) of 4 fair coins, both tails
    assert flips(base, base).p_value == 1.0


def test_fractional_scores_have_no_flips():
    assert flips(run("x", [0.5, 1.0]), run("y", [0.0, 1.0])) is None


def test_p_value_is_that_of_a_t_test_when_every_video_has_one_question():
    ours, base = drawn(0.7, 40, 1), drawn(0.5, 40, 2)
    gap = difference(run("x", ours, 1), run("y", base, 1))
    assert p_value(gap, 40) == pytest.approx(scipy.stats.ttest_rel(ours, base).pvalue)


def test_questions_on_one_video_are_no_evidence_of_their_own():
    ours, base = drawn(0.7, 40, 1), drawn(0.5, 40, 2)
    repeated = [score for score in ours for _ in range(5)], [score for score in base for _ in range(5)]
    alone = difference(run("x", ours, 1), run("y", base, 1))
    clustered = difference(run("x", repeated[0], 5), run("y", repeated[1], 5))
    assert clustered.stderr == pytest.approx(alone.stderr, rel=0.02)
    low, high = bootstrap_interval(run("x", repeated[0], 5), run("y", repeated[1], 5))
    assert (low, high) == pytest.approx(bootstrap_interval(run("x", ours, 1), run("y", base, 1)))
    assert high - low == pytest.approx(2 * 1.96 * alone.stderr, rel=0.15)


def test_videos_count_by_their_questions_in_the_interval():
    """Half of the videos have one question, won; half have three, unchanged: 25 points, not 50."""
    videos = [video for i in range(40) for video in ([i] if i % 2 else [i, i, i])]
    records = [
        ScoredAnswer(f"q{n:05}", f"v{video}", "", float(video % 2), None, None) for n, video in enumerate(videos)
    ]
    ours, base = Run("x", "a", tuple(records), {}), run("y", [0.0] * len(records))
    gap, (low, high) = difference(ours, base), bootstrap_interval(ours, base)
    assert gap.mean == 25
    assert (low, high) == pytest.approx((25 - 1.96 * gap.stderr, 25 + 1.96 * gap.stderr), abs=2)


def test_runs_of_other_tasks_are_not_compared():
    with pytest.raises(ValueError, match=r"x \(2 questions of a\) and y \(2 of b\) did not answer the same questions"):
        difference(run("x", [1.0, 0.0]), run("y", [1.0, 0.0], task="b"))


def test_one_video_has_no_interval():
    assert all(map(math.isnan, bootstrap_interval(run("x", [1.0, 0.0], 2), run("y", [0.0, 0.0], 2))))


def test_detectable_difference_and_questions_are_two_sides_of_one_formula():
    gap = Estimate(mean=2.0, stderr=1.5, count=400)
    z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    assert detectable(gap) == pytest.approx(z * 1.5, abs=0.01)
    needed = questions_needed(gap)
    assert needed == math.ceil((z * 1.5 / 2.0) ** 2 * 400)
    assert detectable(Estimate(2.0, 1.5 * math.sqrt(400 / needed), needed)) == pytest.approx(2.0, abs=0.02)


def test_videos_are_what_a_p_value_rests_on():
    ours, base = run("x", [0.5, 1.0, 0.25, 0.0, 0.75, 0.5]), run("y", [0.0, 0.5, 0.25, 0.0, 0.5, 0.75])
    [found] = compare([ours], base)
    assert (found.videos, found.flips) == (3, None)
    assert found.p_value == p_value(difference(ours, base), 3)


def test_a_large_gain_is_better_and_a_large_loss_worse():
    base = drawn(0.5, 400, 3)
    better = run("good", [1.0 if i % 3 else score for i, score in enumerate(base)])
    worse = run("bad", [0.0 if i % 3 else score for i, score in enumerate(base)])
    found = compare([better, worse], run("base", base))
    assert [comparison.verdict for comparison in found] == ["better", "worse"]
    assert found[0].words.startswith("better: +")
    low, high = found[1].interval
    assert low < found[1].difference.mean < high < 0


def test_noise_cannot_be_told_and_says_how_many_questions_would():
    found = compare([run("x", drawn(0.52, 300, 5))], run("y", drawn(0.5, 300, 6)))[0]
    assert found.verdict == "can't tell"
    assert f"about {found.needed} questions" in found.words and found.needed > 300


def test_many_methods_lower_what_counts_as_found():
    base = [0.0, 1.0] * 60
    slight = run("slight", [1.0 if i in range(0, 16, 2) else score for i, score in enumerate(base)])
    same = [run(f"same{i}", base) for i in range(9)]
    assert compare([slight], run("base", base))[0].verdict == "better"
    together = compare([slight, *same], run("base", base))
    assert together[0].verdict == "can't tell"
    assert together[0].p_corrected == pytest.approx(10 * together[0].p_value)
    assert together[0].words.endswith("p = 0.078 after correction for several methods")
    assert together[0].p_value == pytest.approx(2 / 2**8)  # McNemar's, the larger: 8 gained, none lost


def test_runs_without_difference_say_what_would_have_shown():
    base = [1.0, 0.0] * 50
    found = compare([run("swapped", [0.0, 1.0, *base[2:]]), run("same", base)], run("y", base))
    assert [comparison.verdict for comparison in found] == ["can't tell", "can't tell"]
    assert "points would show" in found[0].words
    assert "both answered every question equally well" in found[1].words


def test_one_question_is_too_few_for_anything():
    found = compare([run("x", [1.0])], run("y", [0.0]))[0]
    assert found.verdict == "can't tell" and "too few" in found.words


def test_a_score_that_is_no_number_is_named():
    with pytest.raises(ValueError, match=r"x has no score for 1 questions of a, such as 'q00001'"):
        compare([run("x", [1.0, math.nan])], run("y", [0.0, 0.0]))


def test_the_table_has_a_line_for_each_method():
    lines = verdict_table(compare([run("x", drawn(0.9, 60, 1))], run("y", drawn(0.2, 60, 2)))).splitlines()
    assert len(lines) == 3 and "| x " in lines[2] and "better" in lines[2]


def test_every_cell_of_the_table_is_under_its_title():
    words = "worse: -6.0 ± 2.0 points on 100 questions, p = 0.012 after correction"
    more = {"resolvable": 3.2, "changed": Estimate(12.0, 1.0, 100), "floor": 2.0, "overlap": Estimate(40.0, 2.0, 100)}
    numbers = (Estimate(-6.0, 2.0, 100), (-10.5, -1.5), 50, Flips(2, 8, 0.11), 0.004, 0.012, 5.6, 80)
    found = Comparison("x", *numbers, **more)
    head, _, row = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in verdict_table([found]).splitlines()
    )
    assert dict(zip(head, row, strict=True)) == {
        "method": "x",
        "difference": "-6.0 ± 2.0",
        "95 %": "-10.5 to -1.5",
        "gained / lost": "2 / 8",
        "McNemar p": "0.11",
        "p, corrected": "0.012",
        "detectable": "5.6",
        "resolvable": "3.2",
        "answers changed": "12.0 ± 1.0 %, 6.0 beyond the difference; floor 2.0 %",
        "kept alike %": "40.0 ± 2.0",
        "verdict": words,
    }


def planted(lost: int, gained: int, videos: int = 150, per_video: int = 3, together: bool = False) -> tuple[Run, Run]:
    """A run that loses and gains so many questions, spread over videos, or all questions of a video at once."""
    count = videos * per_video
    step = 1 if together else count // (lost + gained)
    ours = [1.0] * (count // 2) + [0.0] * (count - count // 2)
    base = list(ours)
    for number in range(lost + gained):
        place = number * step
        base[place], ours[place] = (1.0, 0.0) if number < lost else (0.0, 1.0)
    return run("x", ours, per_video), run("y", base, per_video)


def test_few_changes_on_many_questions_are_equal_within_a_margin_and_never_without_one():
    ours, base = planted(5, 5)
    [equal], [open_] = compare([ours], base, 3.0), compare([ours], base)
    assert equal.verdict == "equal" and equal.words.startswith("equal within 3.0 points: +0.0 ± 0.7 points on 450")
    assert open_.verdict == "can't tell" and math.isnan(open_.p_equal)
    assert 0.0001 < equal.p_equal < 0.01


def test_a_difference_at_the_margin_or_beyond_is_not_equal():
    for lost, gained in ((14, 0), (30, 10), (0, 14), (9, 0)):
        [found] = compare([planted(lost, gained)[0]], planted(lost, gained)[1], 3.0)
        assert found.verdict != "equal", (lost, gained)


def test_a_small_difference_that_is_found_stays_one_and_says_that_it_is_within_the_margin():
    [found] = compare(*(lambda ours, base: ([ours], base))(*planted(15, 0, videos=600, per_video=2)), 5.0)
    assert found.verdict == "worse" and found.words.startswith("worse, but within 5.0 points: -1.2")


def test_no_change_on_few_videos_is_not_equal():
    """Twelve questions without a change say little of the next thousand; on 300 videos they say it within 2 points."""
    base = [1.0, 0.0] * 6
    assert compare([run("x", base)], run("y", base), 3.0)[0].verdict == "can't tell"
    many = [1.0, 0.0] * 300
    assert compare([run("x", many)], run("y", many), 2.0)[0].verdict == "equal"


def test_unchanged_questions_on_one_video_count_as_one_question():
    alone, five = (equality(run("x", [1.0] * 300 * n, n), run("y", [1.0] * 300 * n, n), 3.0) for n in (1, 5))
    assert five == pytest.approx(alone) and alone[0] > 0.001


def test_changes_of_whole_videos_are_less_sure_than_spread_ones():
    spread, together = (equality(*planted(6, 6, together=t), 3.0) for t in (False, True))
    assert spread[0] < together[0] and spread[1] < together[1]


def test_what_can_be_resolved_is_2_93_errors_on_many_questions():
    ours, base = planted(600, 600, videos=10_000)
    gap = difference(ours, base)
    assert 2.93 * gap.stderr < equality(ours, base, 2.0)[1] < 1.06 * 2.93 * gap.stderr


def test_equality_is_corrected_for_the_number_of_rows():
    pairs = [planted(5, 5), planted(6, 6)]
    found = compare([ours for ours, _ in pairs], [base for _, base in pairs], 3.0)
    alone = [equality(*pair, 3.0)[0] for pair in pairs]
    assert [one.p_equal for one in found] == pytest.approx([2 * alone[0], max(2 * alone[0], alone[1])])


def test_a_row_that_is_not_there_counts_in_the_correction():
    ours, base = run("x", [1.0] * 7 + [0.0] * 33, 1), run("y", [0.0] * 40, 1)
    alone, with_gap = compare([ours], base), compare([ours, ours], [base, None])
    assert with_gap[0].p_corrected == pytest.approx(2 * alone[0].p_corrected)
    assert (with_gap[1].verdict, with_gap[1].words) == (
        "can't tell",
        "can't tell: no such row here answered the same questions",
    )


def test_videos_that_all_show_the_same_gain_are_as_many_signs():
    """Their standard error is 0, which is no certainty."""
    ours, base = run("x", [0.5] * 4), run("y", [0.0] * 4)
    [found] = compare([ours], base)
    assert (found.p_value, found.verdict) == (0.5, "can't tell")


def answered(name: str, given: list[str], kept: list[str] | None = None) -> Run:
    kept = kept or [""] * len(given)
    records = [
        ScoredAnswer(f"q{i}", f"v{i // 2}", "", 1.0, None, None, given=g, kept=kept[i]) for i, g in enumerate(given)
    ]
    return Run(name, "a", tuple(records), {})


def test_answers_change_by_content():
    ours, base = answered("x", ["red", "blue", "a", "b"]), answered("y", ["red", "black", "a", "c"])
    assert changed(ours, base).mean == 50
    assert changed(answered("x", ["", ""]), answered("y", ["", ""])) is None


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        *(
            ("B", "dark red"),
            ("(B)", "dark red"),
            ("B.", "dark red"),
            ("B. dark red", "dark red"),
            ("B. blue", "B. blue"),
        ),
        *(("E", "E"), ("a red one", "a red one"), ("", ""), ("C", "</script>")),
    ],
)
def test_a_letter_stands_for_its_option(answer, meant):
    assert content(answer, "What?\nA. blue\n(B) dark  red\n C. </script>\nAnswer with A. or B.") == meant


def test_what_two_rows_keep_alike_is_a_share_of_the_smaller_one():
    ours = answered("x", ["a"] * 4, ["8:f0", "8:0f", "8:0", "8:ff"])
    theirs = answered("y", ["a"] * 4, ["8:c0", "8:f0", "8:1", "9:ff"])
    found = overlap(ours, theirs)
    assert (found.mean, found.count) == (50, 2)  # whole, nothing; one kept none; one has other patches


def test_a_run_is_held_against_the_rows_that_its_configuration_names(tmp_path):
    write_base(tmp_path / "full", BASE, verdicts={"row": "full", "against": "none", "margin": 3.0})
    plan = {"row": "random", "against": "half;gone", "margin": 3.0}
    write_run(tmp_path / "random", samples(OURS), verdicts=plan)
    half = {"row": "half", "against": "none", "margin": 3.0}
    write_run(tmp_path / "half", samples(BASE), keep_ratio=0.5, verdicts=half)
    one, gone = judge(read_board(tmp_path))["skvqa_synth"]
    assert (one.name, gone.name) == ("random, 25% against half", "random, 25% against gone")
    assert round(one.difference.mean) == -33 and one.margin == 3.0
    assert gone.difference.count == 0


@pytest.mark.parametrize(("margins", "expected"), [((2.0, 2.0), 2.0), ((2.0, 3.0), None), ((2.0, None), None)])
def test_a_margin_counts_where_all_rows_fixed_the_same_one(tmp_path, margins, expected):
    write_base(tmp_path / "full", BASE)
    for ratio, margin in zip((0.25, 0.5), margins, strict=True):
        plan = {"row": "", "against": "", "margin": margin}
        write_run(tmp_path / str(ratio), samples(OURS), keep_ratio=ratio, verdicts=plan)
    assert {one.margin for one in judge(read_board(tmp_path))["skvqa_synth"]} == {expected}
