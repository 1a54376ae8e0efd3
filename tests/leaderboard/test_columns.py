"""Which runs may stand in one table, what is left out, and why."""

import json
import re
from pathlib import Path

import pytest
from helpers.harness_files import BASE, COST, OURS, PARTS, read_board, samples, write_base, write_pair, write_run

from lmms_kvtp.leaderboard.board import ALLOW
from lmms_kvtp.leaderboard.gates import read_records, record_of
from lmms_kvtp.leaderboard.page import to_html
from lmms_kvtp.leaderboard.verdicts import judge


def names(board) -> list[str]:
    return [row.name for row in board.rows]


def test_runs_in_one_folder_keep_their_samples_apart(tmp_path):
    write_base(tmp_path, BASE)
    write_run(tmp_path, samples(OURS), stamp="20260102_000000")
    assert [round(row.scores["skvqa_synth"].accuracy.mean) for row in read_board(tmp_path).rows] == [83, 50]


@pytest.mark.parametrize(
    ("facet", "changes"),
    [
        ("tasks", {"task_version": 2.0}),
        ("selection", {"told": {"selection,none": "beta 1.5, at least 64 frames, index 0a1b2c3d4e5f"}}),
        ("frames", {"frames": 32}),
        ("model", {"model": "other"}),
        ("versions", {"harness": "0.7.2"}),
        ("versions", {"version": "0.2.0"}),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused_unless_told(tmp_path, facet, changes):
    board = read_board(write_pair(tmp_path, **changes))
    assert names(board) == ["all tokens"]
    assert board.refused == 1
    assert "random, skvqa_synth" in board.left[0].what
    assert facet in board.left[0].why
    assert names(read_board(tmp_path, allow=[facet])) == ["all tokens", "random"]


def test_of_three_versions_that_of_the_unpruned_model_counts_and_the_others_are_named(tmp_path):
    write_base(tmp_path / "full", BASE, version="0.2.0")
    for version in ("0.1.0", "0.2.0", "0.3.0", "0.3.1"):
        ratio = 0.25 + int(version[-3]) / 10 + int(version[-1]) / 100
        write_run(tmp_path / version, samples(OURS), keep_ratio=ratio, version=version)
    board = read_board(tmp_path)
    assert [row.provenance.versions["lmms_kvtp"] for row in board.rows] == ["0.2.0"] * 2 and board.refused == 3
    told = [re.findall(r"lmms_kvtp (\S+),", item.why) for item in board.left]
    assert told == [["0.1.0", "0.2.0"], ["0.3.0", "0.2.0"], ["0.3.1", "0.2.0"]]


def test_how_frames_are_read_makes_no_difference(tmp_path):
    assert names(read_board(write_pair(tmp_path, chunk_size=2))) == ["all tokens", "random"]


def test_runs_of_other_questions_are_refused_and_never_paired(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", samples(OURS[:4]))
    board = read_board(tmp_path)
    assert names(board) == ["all tokens"]
    assert "another set of questions: 4 questions, q0 to q3" in board.left[0].why
    [_, random] = read_board(tmp_path, allow=["questions"]).rows
    assert random.scores["skvqa_synth"].difference is None
    assert random.relative is None


def test_other_questions_of_the_same_number_are_other_questions(tmp_path):
    write_base(tmp_path / "full", BASE)
    rows = samples(OURS)
    rows[2]["question_id"] = "q2 of another index"
    write_run(tmp_path / "random", rows)
    board = read_board(tmp_path)
    assert names(board) == ["all tokens"]
    here, there = re.findall(r"6 questions, q0 to q5, digest (\w{8})", board.left[0].why)
    assert here != there


def test_the_unpruned_model_decides_what_a_column_is_of(tmp_path):
    write_base(tmp_path / "full", BASE)
    for ratio in (0.25, 0.5):
        write_run(tmp_path / str(ratio), samples(OURS), keep_ratio=ratio, frames=32)
    board = read_board(tmp_path)
    assert (names(board), board.refused) == (["all tokens"], 2)


@pytest.mark.parametrize(("facet", "values"), [("model", ("one", "two")), ("frames", (16, 32))])
def test_a_run_is_judged_against_the_baseline_of_its_own_model_and_frames(tmp_path, facet, values):
    scores = (BASE, OURS), ([1, 0, 0, 0, 0, 0], OURS)
    for value, (base, ours) in zip(values, scores, strict=True):
        write_base(tmp_path / str(value) / "full", base, **{facet: value})
        write_run(tmp_path / str(value) / "random", samples(ours), **{facet: value})
    board = read_board(tmp_path, allow=[facet])
    gaps = [row.scores["skvqa_synth"].difference for row in board.rows]
    assert [gap and round(gap.mean) for gap in gaps] == [None, None, -33, 33]
    assert [round(one.difference.mean) for one in judge(board)["skvqa_synth"]] == [-33, 33]


def test_of_two_unpruned_runs_the_first_is_the_baseline_of_table_and_verdicts(tmp_path):
    write_base(tmp_path / "a", BASE)
    write_base(tmp_path / "b", [0, 0, 0, 0, 0, 1], seed=1)
    write_run(tmp_path / "random", samples(OURS))
    board = read_board(tmp_path)
    [_, again, random] = [row.scores["skvqa_synth"].difference for row in board.rows]
    assert names(board) == ["all tokens (seed=0)", "all tokens (seed=1)", "random"]
    assert (round(again.mean), round(random.mean)) == (-67, -33)
    assert [one.difference for one in judge(board)["skvqa_synth"]] == [random]


def test_a_method_that_ran_again_is_one_row_and_one_comparison(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "b", samples([0] * 6), stamp="20260101_000000")
    write_run(tmp_path / "a", samples(OURS), stamp="20260102_000000")
    board = read_board(tmp_path)
    assert names(board) == ["all tokens", "random"] and board.refused == 0
    [left], [one] = board.left, judge(board)["skvqa_synth"]
    assert "/b/" in left.what and "an earlier run" in left.why and "/a/" in left.why
    assert round(one.difference.mean) == -33 and one.p_corrected == one.p_value


def test_the_newest_run_is_that_of_the_latest_record_whatever_its_files_are_called(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "a", samples([0] * 6), stamp="copied_9", date="20260101_120000")
    write_run(tmp_path / "b", samples(OURS), stamp="copied_1", date="20260101_110000", timezone="UTC")  # 19:00
    write_run(tmp_path / "c", samples([1] * 6), stamp="copied_2", date="no date")
    write_run(tmp_path / "d", samples([1] * 6), stamp="copied_3", date="20260102_000000", timezone="../Mars")
    board = read_board(tmp_path)
    assert names(board) == ["all tokens", "random"]
    assert board.rows[1].scores["skvqa_synth"].accuracy.mean == 50
    assert [Path(item.what).parts[-3] for item in board.left] == ["a", "c", "d"]
    assert all("/b/" in item.why for item in board.left)


def test_of_two_runs_of_one_second_the_last_name_counts_and_the_page_says_so(tmp_path):
    write_base(tmp_path / "full", BASE)
    for place, scores in (("b", OURS), ("a", [0] * 6)):
        write_run(tmp_path / place, samples(scores))
    board = read_board(tmp_path)
    assert board.rows[1].scores["skvqa_synth"].accuracy.mean == 50
    assert "/a/" in board.left[0].what and "of one date, the last name is the newest" in board.left[0].why


def test_uncommitted_changes_are_a_badge_and_no_reason_to_leave_a_row_out(tmp_path):
    board = read_board(write_pair(tmp_path, dirty=True))
    assert (names(board), board.refused) == (["all tokens", "random"], 0)
    assert to_html(board, [], {}, {}).count(">uncommitted changes</span>") == 1


def test_all_tokens_in_another_phase_or_batch_are_a_floor_and_no_row(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_base(tmp_path / "phase", BASE, told_answers="BBAAAA", phase=0.5)
    write_base(tmp_path / "batch", BASE, told_answers="BAAAAA", batch_size=4)
    write_base(tmp_path / "other", BASE, told_answers="BBBBBB", batch_size=4, frames=8)
    write_run(tmp_path / "random", samples(OURS))
    board = read_board(tmp_path)
    assert names(board) == ["all tokens", "random"]
    assert sorted(item.why.partition(":")[0] for item in board.left) == [
        *["all tokens with another batch size or phase"] * 2,
        "another frame settings",
    ]
    [one] = judge(board)["skvqa_synth"]
    assert one.floor == pytest.approx(100 * 2 / 6)
    assert one.changed.mean == 0 and one.change.endswith("floor 33.3 %")


def test_failed_gates_refuse_a_row_and_missing_ones_are_shown(tmp_path):
    write_pair(tmp_path)
    record = {"method": {**PARTS, "keep_ratio": 0.5}, "gates": [{"name": "exact budget", "passed": False}]}
    (tmp_path / "gates.json").write_text(json.dumps(record))
    gates = read_records([tmp_path / "gates.json"])
    board = read_board(tmp_path, gates)
    assert names(board) == ["all tokens"]
    assert "gates failed: exact budget" in board.left[0].why
    assert [row.gates for row in read_board(tmp_path, gates, ["gates"]).rows] == ["not run", "failed: exact budget"]


def test_passed_gates_count_and_skipped_ones_do_not(tmp_path):
    gate = [{"name": "a", "passed": True}, {"name": "b", "passed": None}, {"name": "c", "passed": True}]
    (tmp_path / "gates.json").write_text(json.dumps([{"method": PARTS, "gates": gate}]))
    [record] = read_records([tmp_path / "gates.json"])
    assert record.status == "passed 2"


def test_the_last_record_of_a_method_counts_on_whatever_device(tmp_path):
    gates = []
    for passed, device in ((False, "cpu"), (True, "cuda:0")):
        method = {**PARTS, "encoder": {**PARTS["encoder"], "device": device}}
        path = tmp_path / f"{device[:3]}_gates.json"
        path.write_text(json.dumps({"method": method, "gates": [{"name": "order", "passed": passed}]}))
        gates += read_records([path])
    assert record_of(PARTS, gates).status == "passed 1"
    assert record_of({**PARTS, "pruner": {"class": "other"}}, gates) is None


def test_a_foreign_record_of_gates_is_named(tmp_path):
    (tmp_path / "gates.json").write_text('{"method": {}}')
    with pytest.raises(ValueError, match=r"gates.json is no record of lmms-kvtp doctor: KeyError"):
        read_records([tmp_path / "gates.json"])


def test_bad_files_are_listed_and_do_not_stop_the_table(tmp_path):
    write_pair(tmp_path)
    (tmp_path / "notes_results.json").write_text("not json")
    (tmp_path / "list_results.json").write_text("[1]")
    (tmp_path / "foreign_results.json").write_text('{"scores": 3}')
    for place in ("more", "random/journal"):  # the second is a sweep's, whose results lie beside it
        (tmp_path / place).mkdir()
        journal = tmp_path / place / "20260101_000000_journal_rank0.jsonl"
        journal.write_text('{"journal": 1}\n{"key": "a"}\n{"key": "b"}\n')
    write_run(tmp_path / "nan", samples([1, float("nan"), 0]), keep_ratio=0.5)
    write_run(tmp_path / "silent", [], keep_ratio=0.6)
    write_run(tmp_path / "cost", samples(OURS, cost={**COST, "seconds": {"decode": float("nan")}}), keep_ratio=0.8)
    write_run(tmp_path / "probe", samples(OURS, cost={**COST, "kept_probe": "100:1:ff"}), keep_ratio=0.7)
    board = read_board(tmp_path)
    reasons = {Path(item.what.rpartition(": ")[2]).name: item.why for item in board.left}
    assert names(board) == ["all tokens", "random"]
    assert reasons["notes_results.json"].startswith("not JSON")
    assert reasons["list_results.json"] == "not a results file of the harness: $: [1] is not of type 'object'"
    assert reasons["foreign_results.json"].endswith("$: 'config' is a required property")
    assert reasons["20260101_000000_journal_rank0.jsonl"].startswith("interrupted after 2 answers")
    assert any("'no score; looked for score" in item.why for item in board.left)
    assert any("holds no sample" in item.why for item in board.left)
    assert any("samples_skvqa_synth.jsonl:1 is not a sample" in i.why and "'100:1:ff'" in i.why for i in board.left)
    assert any(f"{tmp_path / 'cost'}" in i.what and i.why.startswith("damaged: TypeError") for i in board.left)
    assert (board.refused, len(board.left)) == (4, 8)


def test_the_newer_of_two_equal_runs_counts(tmp_path):
    write_pair(tmp_path, date="20260101_000000")
    write_run(tmp_path / "random", samples([1] * 6), stamp="20250102_000000", date="20260102_000000")
    board = read_board(tmp_path)
    assert board.rows[1].scores["skvqa_synth"].accuracy.mean == 100
    assert "superseded by 20250102_000000_results.json" in board.left[0].why
    assert board.refused == 0


def test_two_runs_in_one_sample_file_are_refused(tmp_path):
    write_base(tmp_path / "full", BASE)
    write_run(tmp_path / "random", samples(OURS) + samples(OURS))
    board = read_board(tmp_path)
    assert "has question 'q0' again" in board.left[0].why


def test_a_folder_without_runs_says_why(tmp_path):
    (tmp_path / "foreign_results.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no finished run below .*\n  .*foreign_results.json: not a results"):
        read_board(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_board(tmp_path / "absent")


def test_where_every_run_is_refused_the_reasons_stand_in_the_message(tmp_path):
    write_run(tmp_path, samples([2.0]))
    with pytest.raises(ValueError, match=r"no run is left to show:\n  random.*score 2 is not within"):
        read_board(tmp_path)


def test_every_name_of_the_command_is_known():
    from lmms_kvtp.commands.leaderboard import FACETS

    assert set(FACETS) == set(ALLOW)
