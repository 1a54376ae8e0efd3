"""Methods against all tokens on one's own files."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import write_video

from lmms_kvtp.__main__ import main
from lmms_kvtp.compare.measure import FULL, FileQuestion, Kept, MethodOutcome, plain, read
from lmms_kvtp.compare.summary import Worst, recommend, rows, summarize, without_lost
from lmms_kvtp.doctor.exam import divergence
from lmms_kvtp.types import PackedTokens
from lmms_kvtp.video.load import load_video
from lmms_kvtp.visualize.picture import SmallFrames

HOSTILE = "<script>alert(1)</script>"


def outcome(line, method, text="a", full="a", kl=0.0, seconds=1.0, kept=10, video="v.mp4", answer=None, peak=None):
    asked = FileQuestion(line, Path(video), "what?", answer)
    return MethodOutcome(asked, method, text, full, kl, seconds, kept, 100, peak)


def many(method, agreeing, seconds=1.0, kept=10, videos=12):
    """Two questions on each video; the first so many agree."""
    return [
        outcome(i, method, "a" if i < agreeing else "b", "a", 0.5, seconds, kept, f"{i // 2}.mp4")
        for i in range(2 * videos)
    ]


BASE = many(FULL, 24, seconds=4.0, kept=100)


def test_a_line_that_is_no_question_is_named(tmp_path):
    path = tmp_path / "mine.jsonl"
    (tmp_path / "a.mp4").write_bytes(b"")
    path.write_text('{"video": "a.mp4", "question": "what?"}\n\n{"video": "a.mp4"}\n')
    with pytest.raises(ValueError, match=r"mine.jsonl:3 is no object with video and question: KeyError\('question'\)"):
        read(path)
    path.write_text('{"video": "a.mp4", "question": " "}')
    with pytest.raises(ValueError, match=r"mine.jsonl:1: video and question must be texts"):
        read(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"holds no question"):
        read(path)


def test_missing_videos_are_listed_at_once(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"video": f"{i}.mp4", "question": "?"}) + "\n" for i in range(7)))
    with pytest.raises(FileNotFoundError, match=r"0.mp4, .*4.mp4 and 2 more"):
        read(path)


def test_paths_start_at_the_file_and_answers_are_optional(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    path = tmp_path / "mine.jsonl"
    path.write_text('{"video": "a.mp4", "question": "x", "answer": 3}\n{"video": "a.mp4", "question": "y"}')
    assert read(path) == [FileQuestion(1, tmp_path / "a.mp4", "x", "3"), FileQuestion(2, tmp_path / "a.mp4", "y", None)]
    assert len(read(path, limit=1)) == 1


def test_divergence_is_that_of_the_distributions():
    full, pruned = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, -1.0])
    p, q = full.softmax(0), pruned.softmax(0)
    assert divergence(full, pruned) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert divergence(full, full + 3) == pytest.approx(0, abs=1e-12)


def test_answers_agree_but_for_case_spaces_and_punctuation():
    assert plain("(B)  A cat.") == "b a cat"
    assert outcome(1, "m", "Red.", "red").agrees
    assert not outcome(1, "m", "red", "blue").agrees


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("B. a cat", "B", True),
        ("Bird", "B", False),
        ("a cat", "A cat.", True),
        ("A", None, None),
        ("", "A", False),
        ("is it A", "A", False),
    ],
)
def test_a_letter_is_looked_for_at_the_beginning(text, answer, right):
    assert outcome(1, "m", text, answer=answer).right is right


def test_errors_are_clustered_by_video():
    [_, one] = summarize([*BASE, *many("m", 12, videos=12)])
    naive = 0.25 / 23  # of 24 independent questions
    cross = 2 * 12 * 0.25 / 24**2  # the two on each video agree with each other
    assert one.agreement.mean == 50
    assert one.agreement.stderr == pytest.approx(100 * math.sqrt(naive + cross))


def test_the_table_has_a_dash_for_what_is_not_known():
    full, pruned = rows(summarize([*BASE, *many("m", 24, seconds=2.0)]))
    assert full == [FULL, "100 (100.0%)", "-", "-", "-", "4.00 ± 0.00 s", "-", "0.00 ± 0.00 s", "0.00, 0.00 s", "-"]
    told = ["100.0 ± 0.0", "-", "0.500 ± 0.000", "2.00 ± 0.00 s", "2.00x"]
    assert pruned == ["m", "10 (10.0%)", *told, "0.00 ± 0.00 s", "0.00, 0.00 s", "-"]


def test_the_whole_answer_has_a_mean_a_median_and_a_percentile():
    [one] = summarize([replace(outcome(i, "m"), seconds=float(i)) for i in range(21)])
    mean, spread = rows([one])[0][7:9]
    assert mean.startswith("10.00 ± ") and spread == "10.00, 19.00 s"


def test_answers_that_failed_differ_and_are_in_no_mean():
    failed = [replace(one, error="VideoError: gone", text="a", seconds_to_first=99.0) for one in many("m", 24)[:12]]
    [_, one] = summarize([*BASE, *failed, *many("m", 24)[12:]])
    assert (one.agreement.mean, one.seconds.mean, one.kl.count, one.tokens_kept) == (50, 100, 12, 10)


def test_a_method_that_answers_nothing_has_dashes_and_no_nan():
    failed = [replace(one, error="VideoError: gone", kl=None) for one in many("m", 24)]
    found = summarize([*BASE, *failed])
    assert rows(found)[1] == ["m", "0 (100.0%)", "0.0 ± 0.0", "-", "-", "-", "-", "-", "-", "-"]
    assert "nan" not in recommend(found, 95.0) and recommend(found, 95.0).startswith("Keep all tokens")


def test_questions_without_an_answer_of_all_tokens_are_left_out_and_counted():
    lost = replace(outcome(0, FULL), error="VideoError: gone")
    made = [lost, outcome(0, "m"), outcome(1, FULL), replace(outcome(1, "m"), error="ValueError: long")]
    left, notes = without_lost(made)
    assert [one.asked.line for one in left] == [1, 1]
    assert notes == [
        f"1 questions have no answer with all tokens and are left out: {FULL}, line 0: VideoError: gone",
        "1 answers failed and count as ones that differ: m, line 1: ValueError: long",
    ]
    with pytest.raises(ValueError, match="1 questions have no answer with all tokens"):
        without_lost([lost])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"anser": "A"}, r"mine.jsonl:1 has an unknown field 'anser'; did you mean answer"),
        ({"spans": [[0, 1]]}, r"mine.jsonl:1: spans are lists of begin, end and score, in seconds"),
    ],
)
def test_what_a_line_may_not_hold_is_named(tmp_path, row, message):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"video": "a.mp4", "question": "x", **row}))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "mine.jsonl")


def test_questions_without_answer_are_neither_right_nor_wrong():
    given = [("A", "A"), ("B", "A"), ("B", None), ("B", None)]
    [one] = summarize([outcome(i, "m", text, answer=answer) for i, (text, answer) in enumerate(given)])
    assert (one.right.mean, one.right.count, one.agreement.count) == (50, 2, 4)


def test_tokens_are_a_mean_and_memory_is_the_largest():
    peaks = [3 * 2**30, None, 2**30]
    [one] = summarize([outcome(i, "m", kept=10 * i, peak=peak) for i, peak in enumerate(peaks)])
    assert (one.tokens_kept, one.tokens_before, one.peak_bytes) == (10, 100, 3 * 2**30)
    assert rows([one])[0][-1] == "3.0 GiB"


def test_the_fastest_of_the_methods_that_agree_is_recommended():
    found = summarize([*BASE, *many("slow", 24, 3.0), *many("fast", 24, 2.0), *many("wrong", 8, 0.1)])
    advice = recommend(found, 95.0)
    assert advice.startswith("Take fast: it agrees with all tokens on 100.0 ± 0.0 % of 24 questions on 12 videos")
    assert "the first token 2.00 times sooner" in advice
    assert "So do slow, which take longer." in advice


def test_a_method_slower_than_all_tokens_is_said_to_be():
    assert "2.00 times the time to the first token" in recommend(summarize([*BASE, *many("m", 24, 8.0)]), 95.0)


def test_what_is_not_shown_is_not_recommended():
    unsure = recommend(summarize([*BASE, *many("m", 23)]), 95.0)
    assert unsure.startswith("Not sure yet: m agrees on 95.8 ± 4.1 %, but 24 questions on 12 videos leave ±8.0 points")
    assert recommend(summarize([*BASE, *many("m", 12)]), 95.0).startswith("Keep all tokens, or try a higher ratio")
    assert "nothing to recommend" in recommend(summarize(BASE), 95.0)


def test_the_fastest_is_not_the_first_by_name_nor_the_first_in_order():
    found = summarize([*BASE, *many("a slow one", 24, 3.0), *many("z fast", 24, 1.0), *many("m", 24, 2.0)])
    assert recommend(found, 95.0).startswith("Take z fast: ")
    assert "So do a slow one, m, which take longer." in recommend(found, 95.0)


def test_of_equally_fast_methods_the_one_with_fewer_tokens_is_recommended():
    found = summarize([*BASE, *many("more", 24, kept=30), *many("less", 24, kept=20), *many("most", 24, kept=40)])
    assert recommend(found, 95.0).startswith("Take less: ")


def test_what_is_asked_for_exactly_is_enough():
    assert recommend(summarize([*BASE, *many("m", 24)]), 100.0).startswith("Take m: ")


def test_one_video_shows_nothing():
    full, one = [outcome(i, FULL) for i in range(4)], [outcome(i, "m") for i in range(4)]
    advice = recommend(summarize(full + one), 95.0)
    assert advice.startswith(
        "Not sure yet: m agrees on 100.0 ± 0.0 %, but 4 questions on 1 video leave other videos open"
    )


def test_of_methods_that_agree_alike_the_less_divergent_is_the_closest():
    near = [replace(one, kl=0.1) for one in many("near", 12)]
    assert "The closest is near with" in recommend(summarize([*BASE, *many("far", 12), *near]), 95.0)


def test_where_none_agrees_enough_the_closest_is_named():
    found = summarize([*BASE, *many("far", 3), *many("close", 12), *many("farther", 1)])
    assert recommend(found, 95.0).endswith("The closest is close with 50.0 ± 14.6 %.")


def test_one_question_has_no_standard_error_and_no_nan():
    found = summarize([outcome(0, FULL), outcome(0, "m", "b")])
    assert recommend(found, 95.0).endswith(
        "The closest is m with 0.0 ± - %. With fewer than 10 videos the intervals mean little; add videos."
    )
    assert "nan" not in str(rows(found))


def test_few_videos_carry_a_caution():
    few = many(FULL, 4, videos=2) + many("m", 4, videos=2)
    assert "With fewer than 10 videos the intervals mean little" in recommend(summarize(few), 95.0)
    assert "fewer" not in recommend(summarize(many(FULL, 20, videos=10) + many("m", 20, videos=10)), 95.0)


def test_the_worst_are_those_that_differ_and_then_the_most_divergent(tmp_path):
    read_from = []
    small = SmallFrames(torch.zeros(9, 4, 6, 3, dtype=torch.uint8), torch.arange(9) * 1.0)
    worst = Worst(3, read=lambda video: read_from.append(video) or small)
    packed = PackedTokens(torch.zeros(4, 2), torch.tensor([1, 5, 5, 5]), torch.arange(4), torch.ones(4), (2, 3), 9)
    kept = Kept(load_video(write_video(tmp_path / "v.mp4", seconds=1)), packed)
    given = [("m", "a", 0.9), (FULL, "b", 9.0), ("m", "b", 0.1), ("m", "a", 0.0), ("m", "b", 0.3), ("m", "a", 0.8)]
    for line, (method, text, kl) in enumerate(given):
        worst.add(outcome(line, method, text, "a", kl), kept)
    assert [case.outcome.asked.line for case in worst.cases] == [4, 2, 0]
    assert [(seconds, count) for seconds, count, _ in worst.cases[0].frames if count] == [(1.0, 1), (5.0, 3)]
    assert len(worst.cases[0].frames) == 8
    worst.add(outcome(6, "m", "b", "a", 0.5), kept)
    assert [case.outcome.asked.line for case in worst.cases] == [6, 4, 2]
    assert len(read_from) == 1


def test_the_command_compares_and_recommends(tmp_path, capsys):
    model = write_tiny(tmp_path / "model")
    for i in range(2):
        write_video(tmp_path / f"{i}.mp4", seconds=4, seed=i)
    lines = [{"video": f"{i % 2}.mp4", "question": f"Question {i} {HOSTILE}?", "answer": "A"} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["compare", "--data", str(tmp_path / "mine.jsonl"), "--pretrained", str(model), "--worst", "2"]
    settings = ["--methods", "random", "--ratios", "0.4", "--method", "pruner=none,scorer=uniform,keep_ratio=1"]
    assert main([*command, *settings, "--max-new-tokens", "3", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "nan" not in shown and "TOY" not in shown
    found = [json.loads(line) for line in (tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()]
    assert len(found) == 4 * 3
    assert {row["kl"] for row in found if row["method"] == FULL} == {0.0}
    same = [row for row in found if row["method"].startswith("pruner=none")]
    assert all(row["agrees"] and row["kl"] < 1e-6 for row in same)
    assert any(row["kl"] > 1e-3 for row in found if row["method"] == "random 40%")
    assert {(row["tokens_kept"], row["tokens_before"]) for row in found if row["method"] == "random 40%"} == {(40, 100)}
    assert "| random 40%" in shown
    page = (tmp_path / "out" / "index.html").read_text()
    assert HOSTILE not in page
    assert page.count("<article>") == 2
    assert page.count("data:image/jpeg") == 2 * 4
    before = (tmp_path / "out" / "outcomes.jsonl").read_text()
    torn = before.splitlines(keepends=True)
    (tmp_path / "out" / "outcomes.jsonl").write_text("".join(torn[:-6]) + torn[-6][:40])  # of a run that was killed
    assert main([*command, *settings, "--max-new-tokens", "3", "--out", str(tmp_path / "out")]) == 0
    again = [json.loads(line) for line in (tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()]
    assert sum(old["seconds"] == new["seconds"] for old, new in zip(found, again, strict=True)) == 6
    assert page.count("data:image/jpeg") == (tmp_path / "out" / "index.html").read_text().count("data:image/jpeg")


def test_a_video_that_cannot_be_read_is_counted_at_the_end_and_asked_again(tmp_path, checkpoint, capsys):
    write_video(tmp_path / "good.mp4", seconds=2)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    lines = [{"video": name, "question": "What?"} for name in ("bad.mp4", "good.mp4")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = f"pretrained={checkpoint},max_frames_num=4,on_error=skip"
    command = ["compare", "--data", str(tmp_path / "mine.jsonl"), "--methods", "random", "--ratios", "0.4"]
    command += ["--model_args", given, "--max-new-tokens", "2", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    told = "1 questions have no answer with all tokens and are left out: all tokens, line 1: VideoError: "
    shown = capsys.readouterr().out
    assert f"! {told}" in shown and told in (tmp_path / "out" / "compare.md").read_text()
    assert "1 questions on 1 video" in shown
    rows = [json.loads(line) for line in (tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()]
    assert [(row["line"], row["error"] is None) for row in rows] == [(1, False), (1, False), (2, True), (2, True)]
