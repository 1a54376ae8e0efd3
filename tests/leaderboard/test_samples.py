"""Single samples: as a data frame, and as the script of the page that shows them."""

import json

import pytest
from helpers.harness_files import BASE, COST, OURS, read_board, samples, write_base, write_pair, write_run

from lmms_kvtp.leaderboard import load
from lmms_kvtp.leaderboard.results import sample_script

HOSTILE = "</script><script>alert(1)</script><!--\u2028"


def content(script: str) -> list[dict]:
    assert script.startswith("samples(") and script.endswith(");\n")
    table = json.loads(script[len("samples(") : -len(");\n")])
    return [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]


def test_the_frame_has_a_line_for_each_method_task_and_question(tmp_path):
    write_pair(tmp_path)
    write_run(tmp_path / "more", samples(OURS[:2], cost=None), "other")
    frame = load(tmp_path)
    assert frame.groupby(["method", "task"]).size().to_dict() == {
        ("all tokens", "skvqa_synth"): 6,
        ("random", "other"): 2,
        ("random", "skvqa_synth"): 6,
    }
    random = frame[(frame.method == "random") & (frame.task == "skvqa_synth")]
    assert random.score.tolist() == OURS
    assert (random.tokens_kept.mean(), random.seconds.iloc[0], random.flops.iloc[0]) == (25, 0.625, 8e6)
    assert frame[frame.task == "other"].tokens_kept.isna().all()
    assert load([tmp_path / "full", tmp_path / "more"]).method.nunique() == 2


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run below"):
        load(tmp_path)


def test_the_page_gets_every_answer_with_what_was_kept(tmp_path):
    write_base(tmp_path / "full", BASE)
    rows = samples(OURS, cost={**COST, "kept_by_frame": [0, 10, 4]})
    rows[0] |= {"input": f"What?\nA. {HOSTILE}\nB. blue", "target": "A", "filtered_resps": ["B"]}
    rows[1]["filtered_resps"] = [HOSTILE]
    write_run(tmp_path / "random", rows)
    script = sample_script(read_board(tmp_path))
    assert "<" not in script and "\u2028" not in script
    lines = content(script)
    assert "<script>alert(1)</script><!--" in next(line["given"] for line in lines if "alert" in line["given"])
    assert len(lines) == 12
    one = next(line for line in lines if line["method"] == "random, 25%" and line["question"] == "q0")
    assert (one["given"], one["score"], one["kept_by_frame"]) == ("blue", 1.0, [0, 10, 4])
    first = next(line for line in lines if line["question"] == "q1")
    assert first["prompt"] == "question 1" and [line["prompt"] for line in lines].count("") == 6


def test_a_sample_without_cost_and_one_that_failed_are_shown(tmp_path):
    rows = samples(OURS[:2], cost=None)
    rows[0]["token_counts"] = [{"error": "gone"}]
    write_run(tmp_path, rows)
    failed, costless = content(sample_script(read_board(tmp_path)))
    assert (failed["error"], costless["error"]) == ("gone", None)
    assert "kept_by_frame" not in failed


def test_a_task_of_too_many_rows_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("lmms_kvtp.leaderboard.results.MOST_SAMPLED", 1)
    write_pair(tmp_path)
    write_run(tmp_path / "more", samples(OURS[:2]), "other")
    assert {line["task"] for line in content(sample_script(read_board(tmp_path)))} == {"other"}


def test_questions_of_one_name_in_two_tasks_keep_their_own_words(tmp_path):
    for task, word in (("one", "red"), ("two", "blue")):
        rows = samples(OURS[:2])
        rows[0] |= {"input": f"Is it {word}?", "target": word, "filtered_resps": [f"{word}, I think"]}
        write_run(tmp_path / task, rows, task)
    lines = [line for line in content(sample_script(read_board(tmp_path))) if line["question"] == "q0"]
    assert [[line[name] for name in ("task", "prompt", "right", "given")] for line in lines] == [
        ["one", "Is it red?", "red", "red, I think"],
        ["two", "Is it blue?", "blue", "blue, I think"],
    ]
