"""`lmms-kvtp skvqa` on finished indexes."""

import pytest
from helpers.skvqa_entries import long_entry

from lmms_kvtp.__main__ import main
from lmms_kvtp.skvqa.entry import to_line
from lmms_kvtp.skvqa.index import read_entries, write_entries

A = [long_entry("1", 128, 5.0), long_entry("2", 128, 0.0)]
B = [long_entry("1", 128, 0.0), long_entry("3", 128, 5.0)]


@pytest.fixture
def indexes(tmp_path):
    write_entries(tmp_path / "a.jsonl", A)
    write_entries(tmp_path / "b.jsonl", B)
    return tmp_path


def run(*words):
    return main(["skvqa", *map(str, words)])


def test_validate_counts_good_and_bad_lines(indexes, capsys):
    assert run("validate", indexes / "a.jsonl") == 0
    (indexes / "a.jsonl").write_text(to_line(A[0]) + "\n{\n")
    assert run("validate", indexes / "a.jsonl") == 1
    assert "1 good lines, 1 bad\n  line 2 is not JSON" in capsys.readouterr().out


def test_a_file_named_after_a_data_set_must_be_of_it(indexes, capsys):
    write_entries(indexes / "nextqa.jsonl", A)
    assert run("validate", indexes) == 1
    assert "line 1 is of data set videomme, wanted nextqa" in capsys.readouterr().out


def test_stats_takes_beta(indexes, capsys):
    assert run("stats", indexes / "a.jsonl", "--beta", "0.5") == 0
    assert run("stats", indexes / "a.jsonl") == 0
    out = capsys.readouterr().out
    assert "2 of 2 questions kept (beta 0.5" in out
    assert "1 of 2 questions kept (beta 2" in out


def test_diff_tells_what_changes_and_what_is_kept(indexes, capsys):
    assert run("diff", indexes / "a.jsonl", indexes / "b.jsonl") == 0
    out = capsys.readouterr().out
    assert f"1 only in {indexes / 'a.jsonl'}, such as videomme/2\n" in out
    assert f"1 in both, kept only by {indexes / 'a.jsonl'}, such as videomme/1\n" in out
    assert "mean absolute change of a clip's score: 0.312" in out  # 5 in one of 16 clips


def test_merge_writes_one_file_or_says_what_differs(indexes, capsys):
    write_entries(indexes / "c.jsonl", B[1:])
    assert run("merge", indexes / "a.jsonl", indexes / "c.jsonl", "--out", indexes / "all.jsonl") == 0
    assert [entry.question_id for entry in read_entries(indexes / "all.jsonl")] == ["1", "2", "3"]
    with pytest.raises(SystemExit):
        run("merge", indexes / "a.jsonl", indexes / "b.jsonl", "--out", indexes / "all.jsonl")
    assert "1 questions differ between the indexes, such as videomme/1" in capsys.readouterr().err


def test_install_puts_each_data_set_where_the_tasks_look(indexes, monkeypatch, capsys):
    from lmms_kvtp.skvqa.task_index import locate_index, task_entries

    monkeypatch.setenv("LMMS_KVTP_HOME", str(indexes / "home"))
    monkeypatch.delenv("LMMS_KVTP_SKVQA_INDEX", raising=False)
    assert run("install", indexes / "a.jsonl") == 0
    assert capsys.readouterr().out.strip() == str(locate_index("videomme"))
    assert task_entries("videomme")["1"] == A[0]
    (indexes / "a.jsonl").write_text("{\n")
    with pytest.raises(SystemExit):
        run("install", indexes / "a.jsonl")
    assert task_entries("videomme")["1"] == A[0]


def test_filter_writes_what_the_paper_trains_on(tmp_path, capsys):
    given = [(128, 5.0), (128, 0.0), (56, 5.0)]
    training = [long_entry(f"q{n}", *one, dataset="mvbench") for n, one in enumerate(given)]
    write_entries(tmp_path / "mvbench.jsonl", training)
    write_entries(tmp_path / "videomme.jsonl", [long_entry("e1", 128, 5.0)])
    out = tmp_path / "training.jsonl"
    assert run("filter", tmp_path / "mvbench.jsonl", tmp_path / "videomme.jsonl", "--out", out) == 0
    assert [entry.question_id for entry in read_entries(out)] == ["q0"]
    told = "1 of 4 questions kept; left out: 1 for evaluation, 1 not sparse, 1 too short, 0 neither sparse nor long"
    assert told in capsys.readouterr().out


def test_filter_says_when_nothing_is_left(tmp_path, capsys):
    write_entries(tmp_path / "videomme.jsonl", [long_entry("e1", 128, 5.0)])
    with pytest.raises(SystemExit):
        run("filter", tmp_path, "--out", tmp_path / "out" / "training.jsonl")
    assert "none of 1 questions is of a training data set and meets the criteria" in capsys.readouterr().err
