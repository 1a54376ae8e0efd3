import os
from dataclasses import replace

import pytest
from helpers.skvqa_entries import entry, long_entry

from lmms_kvtp.files import write_whole
from lmms_kvtp.skvqa.entry import DATASETS, to_line
from lmms_kvtp.skvqa.index import (
    IndexFileError,
    compare_indexes,
    index_files,
    merge_indexes,
    read_entries,
    write_entries,
)
from lmms_kvtp.skvqa.stats import Criteria, apply_criteria, statistics_table

LONG = [long_entry("a", 64, 5.0), long_entry("b", 128, 5.0), long_entry("c", 128, 0.5), long_entry("d", 40, 5.0)]
SHORT_AND_FLAT = long_entry("e", 24, 0.1)


def test_a_file_reads_back_sorted_by_video_and_question(tmp_path):
    write_entries(tmp_path / "videomme.jsonl", [entry("2"), entry("1"), entry("0", video_id="clip_9")])
    assert [found.question_id for found in read_entries(tmp_path / "videomme.jsonl")] == ["1", "2", "0"]


def test_every_bad_line_is_named_with_its_number(tmp_path):
    path = tmp_path / "index.jsonl"
    lines = [to_line(entry("1")), "{broken", to_line(entry("1")), to_line(entry("2", dataset="nextqa"))]
    path.write_text("\n".join(lines))
    with pytest.raises(IndexFileError) as error:
        read_entries(path, "videomme")
    assert "3 bad lines" in str(error.value)
    assert "line 2 is not JSON" in str(error.value)
    assert "line 3 has question '1' again (first in line 1)" in str(error.value)
    assert "line 4 is of data set nextqa, wanted videomme" in str(error.value)


def test_an_empty_file_and_a_binary_one_are_no_index(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IndexFileError, match="has no entry"):
        read_entries(tmp_path / "empty")
    with pytest.raises(ValueError, match="line 1 is not UTF-8"):
        read_entries(tmp_path / "binary")


def test_a_folder_has_one_file_for_each_data_set(tmp_path):
    for name in ("nextqa", "videomme", "notes"):
        (tmp_path / f"{name}.jsonl").write_text("")
    assert [path.stem for path in index_files(tmp_path)] == ["videomme", "nextqa"]
    with pytest.raises(FileNotFoundError, match=r"wanted a file, or a folder with some of videomme\.jsonl"):
        index_files(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "index.jsonl"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*index.jsonl: No space left on device; free some space"):
        write_whole(path, b"new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("index.jsonl", "old")]


def test_each_criterion_drops_what_misses_it():
    found = apply_criteria([*LONG, SHORT_AND_FLAT], Criteria())
    assert [kept.question_id for kept in found.kept] == ["a", "b"]
    assert (found.only_not_sparse, found.only_too_short, found.both) == (1, 1, 1)


def test_beta_is_compared_with_highest_over_mean_rate():
    [one] = [long_entry("x", 64, 2.0)]
    assert apply_criteria([one], Criteria(beta=one.sparsity)).kept
    assert not apply_criteria([one], Criteria(beta=one.sparsity + 1e-3)).kept
    with pytest.raises(ValueError, match="beta=-1"):
        Criteria(beta=-1.0)


def test_statistics_are_those_of_table_1():
    lines = statistics_table([*LONG[:2], entry(duration=0.0)], Criteria(beta=99.0)).splitlines()
    whole, kept = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "videomme, f" in line]
    sparsity = (LONG[0].sparsity + LONG[1].sparsity + entry().sparsity) / 3
    assert whole == ["3", "1", f"{(64 + 128) / 2:.0f} s", f"{sparsity:.2f}"]  # the unknown length is left out
    assert kept == ["0", "0", "0 s", "0.00"]


def test_the_report_says_what_each_criterion_drops():
    text = statistics_table([*LONG, SHORT_AND_FLAT, long_entry("n", 70, 5.0, dataset="nextqa")], Criteria())
    assert "videomme: 2 of 5 questions kept (beta 2, at least 64 frames)" in text
    assert "dropped: 1 only not sparse enough, 1 only too short, 1 both" in text
    assert "all: 3 of 6 questions kept" in text
    assert "| nextqa, filtered" in text


def test_the_papers_own_statistics_stand_below_with_what_differs():
    lines = statistics_table([*LONG[:2], replace(LONG[2], dataset="nextqa")], Criteria(beta=2.5)).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| paper")]
    assert rows == [
        ["paper, all seven, full", "50,812", "-", "245 s", "1.95"],
        ["paper, all seven, SparseKV-QA", "20,050", "-", "451 s", "3.56"],
    ]
    told = "\n".join(lines)
    assert "the paper keeps 39.5 % of its questions, this index 66.7 %" in told
    assert "not here: egoschema, activitynetqa, perceptiontest, videochatgpt, mvbench\n" in told
    assert "LLaVA-NeXT there, of tiny here" in told
    assert "in its released filter, 1 here" in told
    assert "here it is 2.5" in told
    every = statistics_table([replace(LONG[0], dataset=name) for name in DATASETS], Criteria())
    assert "one sum over seven data sets, as here" in every


def test_two_indexes_are_compared_question_by_question():
    a = [*LONG[:2], entry("1")]
    b = [LONG[1], long_entry("a", 64, 0.0), entry("2")]
    found = compare_indexes(a, b, Criteria())
    assert (found.only_a, found.only_b) == ((("videomme", "1"),), (("videomme", "2"),))
    assert found.changed == found.kept_only_a == (("videomme", "a"),)
    assert found.kept_only_b == ()
    assert found.mean_score_change == pytest.approx(5 / (8 + 16))


def test_parts_that_agree_are_merged_and_others_are_refused():
    assert len(merge_indexes([LONG[:3], LONG[2:], [entry("1", dataset="nextqa", prompts="v0")]])) == 5
    with pytest.raises(ValueError, match="1 questions differ between the indexes, such as videomme/a"):
        merge_indexes([LONG, [long_entry("a", 64, 1.0)]])
    other = {"captioner": "tiny", "refiner": "rule", "scorer": "gpt"}
    with pytest.raises(ValueError, match=r"made in 2 ways: .*scorer gpt.*scores of different models"):
        merge_indexes([LONG, [long_entry("z", 64, 1.0, models=other)]])
