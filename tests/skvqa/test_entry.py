import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.skvqa_entries import entry
from hypothesis import given
from hypothesis import strategies as st

from lmms_kvtp.predictor.examples import read_examples
from lmms_kvtp.skvqa.entry import EntryError, clip_rates, from_line, sparsity_of, to_line


def test_rates_are_those_of_equation_1():
    scores, frames = (0.0, 4.0, 1.0), (8, 8, 4)  # the last clip is shorter
    weights = [math.exp(score) for score, count in zip(scores, frames, strict=True) for _ in range(count)]
    by_frame = [0.3 * 20 * weight / sum(weights) for weight in weights]
    rates = clip_rates(scores, 20, alpha=0.3)
    assert rates == pytest.approx((by_frame[0], by_frame[8], by_frame[16]))
    assert sparsity_of(rates, 0.3) == pytest.approx(max(by_frame) / (sum(by_frame) / 20))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=16), st.integers(0, 7), st.sampled_from([0.5, 1.0, 2.0]))
def test_rates_average_to_alpha_and_sparsity_lies_between_1_and_n(scores, missing, temperature):
    frames = 8 * len(scores) - missing
    rates = clip_rates([float(score) for score in scores], frames, temperature=temperature)
    counts = [8] * (len(scores) - 1) + [8 - missing]
    assert sum(rate * count for rate, count in zip(rates, counts, strict=True)) == pytest.approx(0.2 * frames)
    assert 1 - 1e-9 <= sparsity_of(rates) <= frames + 1e-9


def test_equal_scores_have_sparsity_1_whatever_they_are():
    assert entry(clip_scores=(3.0, 3.0, 3.0)).sparsity == 1.0


def test_a_line_reads_back_as_it_was_written():
    written = entry(question="Was ist „das“?\u2028\nEnde", refined="日本語?")
    line = to_line(written)
    assert len(line.splitlines()) == 1  # whatever a reader takes for the end of a line
    assert from_line(line) == written


def test_a_line_has_the_fields_that_the_predictor_trains_on():
    found = json.loads(to_line(entry()))
    assert found["video"] == "data/clip_1.mp4"
    assert found["spans"] == [[0.0, 8.0, 0.0], [8.0, 16.0, 4.0], [16.0, 21.5, 1.0]]


def test_the_predictor_trains_on_an_index(tmp_path):
    (tmp_path / "videomme.jsonl").write_text(to_line(entry()))
    [example] = read_examples(tmp_path / "videomme.jsonl", tmp_path)
    assert example.source == str(tmp_path / "data/clip_1.mp4")
    assert example.questions[0].refined == entry().refined


def test_the_split_is_that_of_the_paper():
    assert (entry().split, entry(dataset="mvbench").split) == ("evaluation", "training")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "has schema 2, this version reads 1"),
        ({"schema": None}, "has schema None"),
        ({"dataset": "tvqa"}, "is of data set 'tvqa'; known are videomme"),
        ({"split": "training"}, "which is not that of videomme"),
        ({"question_id": ""}, "empty question_id"),
        ({"question_id": 7}, "has question_id=7, wanted str"),
        ({"num_frames": True}, "has num_frames=True, wanted int"),
        ({"duration": "8"}, "has duration='8', wanted a finite number"),
        ({"clip_scores": [0, 4], "spans": None}, "2 clip_scores"),
        ({"clip_scores": [0, 6, 1]}, "other scores in spans than in clip_scores"),
        ({"clip_scores": [0, 6, 1], "spans": None}, "has the score 6, scores go from 0 to 5"),
        ({"clip_scores": [0, None, 1]}, "None is not a finite number"),
        ({"spans": [[0, 8, 0], [8, 16, 4], [16, 9, 1]]}, "its end behind its start"),
        ({"spans": [[0, 8], [8, 16], [16, 20]]}, "must hold finite numbers"),
        ({"spans": []}, "has no spans"),
        ({"rates": [0.1, 0.4, 0.1]}, "that its scores do not give"),
        ({"sparsity": 3.0}, "has rates or a sparsity .3. that its scores do not give"),
        ({"temperature": 0}, "above 0"),
        ({"models": {"scorer": 5}}, "options or models that are no text"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    line = json.dumps({**json.loads(to_line(entry())), **change})
    with pytest.raises(EntryError, match=message):
        from_line(line)


@pytest.mark.parametrize("name", ["video_id", "clip_scores", "spans", "models", "refined"])
def test_a_missing_field_is_named(name):
    found = json.loads(to_line(entry()))
    del found[name]
    with pytest.raises(EntryError, match=f"lacks the field '{name}'"):
        from_line(json.dumps(found))


@pytest.mark.parametrize("line", ["", "{", "[]", "NaN", '{"schema": 1, "sparsity": NaN}'])
def test_what_is_no_entry_is_refused(line):
    with pytest.raises(EntryError):
        from_line(line)


def test_scores_need_one_clip_each():
    with pytest.raises(EntryError, match="2 scores for the 3 clips of 20 frames"):
        entry(clip_scores=(1.0, 2.0))


def test_spans_are_unknown_without_seconds():
    assert replace(entry(), edges=()).spans is None
    assert from_line(to_line(entry(edges=()))).spans is None
    assert json.loads(to_line(entry(edges=())))["spans"] is None  # [] would say: the whole video


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 10**9, "clip_size": 1}, "3 clip_scores for 1000000000 clips"),
        ({"num_frames": 10**400}, "num_frames=1000"),
        ({"duration": 10**400}, "wanted a finite number"),
        ({"alpha": float("inf")}, "wanted a finite number"),
        ({"clip_scores": [10**400, 1, 1]}, "clip_scores, rates and spans must hold finite numbers"),
        ({"video": "../../etc/passwd"}, "not below the videos' folder"),
        ({"video": "/etc/passwd"}, "not below the videos' folder"),
        ({"video": "C:\\x.mp4"}, "not below the videos' folder"),
        ({"video": "a\\..\\..\\x.mp4"}, "not below the videos' folder"),
    ],
)
def test_what_would_cost_a_machine_its_memory_or_leave_the_folder_is_refused(change, message):
    with pytest.raises(EntryError, match=message):
        from_line(json.dumps({**json.loads(to_line(entry())), **change}))


def test_rates_of_far_too_many_frames_are_refused_before_clips_are_made():
    with pytest.raises(EntryError, match="1 scores for the"):
        clip_rates([1.0], 10**400)


def test_a_line_of_many_brackets_is_no_json():
    with pytest.raises(EntryError, match="is not JSON"):
        from_line("[" * 100_000)


def test_the_predictor_trains_on_no_video_outside_of_the_folder(tmp_path):
    line = json.loads(to_line(entry())) | {"video": "/etc/passwd"}
    (tmp_path / "videomme.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"line 1: .*'/etc/passwd' is not below"):
        read_examples(tmp_path / "videomme.jsonl", tmp_path)
    [example] = read_examples(tmp_path / "videomme.jsonl", Path("/"))
    assert example.source == "/etc/passwd"
