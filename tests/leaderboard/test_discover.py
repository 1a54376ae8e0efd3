"""Many sample files, read by one process or by several."""

import gc
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from helpers.harness_files import read_board, samples, write_base, write_run

from lmms_kvtp.leaderboard import discover as module
from lmms_kvtp.leaderboard.discover import pending_summaries
from lmms_kvtp.leaderboard.gates import find_records
from lmms_kvtp.leaderboard.page import to_html
from lmms_kvtp.leaderboard.results import to_json


@pytest.fixture
def runs(tmp_path):
    write_base(tmp_path / "full", [1, 1, 1, 1, 1, 0])
    write_run(tmp_path / "random", samples([1, 1, 0, 1, 0, 0]))
    broken = write_run(tmp_path / "broken", samples([1, 1, 0, 1, 0, 1]))
    [path] = broken.rglob("*_samples_*.jsonl")
    path.write_text(path.read_text() + '{"score": 7}\n')
    return tmp_path


def files(folder):
    return [(path, "a", "skvqa_synth", {}) for path in sorted(folder.rglob("*_samples_*.jsonl"))]


def test_several_processes_read_what_one_reads(runs, monkeypatch):
    alone = to_json(read_board(runs))
    monkeypatch.setattr(module, "SHARE", 1)
    assert to_json(read_board(runs, processes=2)) == alone
    assert "broken" in alone and ":7 is not a sample with a score" in alone


def test_what_only_pythons_json_reads_is_read(tmp_path):
    rows = samples([1, 0])
    rows[0]["resps"] = [["\ud800"]]
    rows[1]["doc"] = {"length": float("nan"), "frames": 2**70}
    write_base(tmp_path, [1, 0])
    [path] = tmp_path.rglob("*_samples_*.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [row] = read_board(tmp_path).rows
    assert row.scores["skvqa_synth"].accuracy.mean == 50


def test_processes_start_only_where_there_is_much_to_read(runs, monkeypatch):
    with pending_summaries(files(runs), processes=2):
        assert not multiprocessing.active_children()
    monkeypatch.setattr(module, "SHARE", 1)
    with pending_summaries(files(runs), processes=2) as results:
        assert len(multiprocessing.active_children()) == 2
        assert [len(results[place]().run.answers) for place in (1, 2)] == [6, 6]
        niceness = [os.getpriority(os.PRIO_PROCESS, child.pid) for child in multiprocessing.active_children()]
        assert max(niceness) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)  # one of them may not have begun


def test_nobody_who_reads_looks_for_cycles(runs):
    with pytest.raises(KeyError), pending_summaries(files(runs), processes=1):
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=module.become_reader) as pool:
        assert not pool.submit(gc.isenabled).result()


DAMAGED = {
    "arguments": lambda found: found["config"].update(resolved_cli_args="x"),
    "resumed": lambda found: ours(found).update(resumed=[1]),
    "ratio": lambda found: ours(found)["method"].update(keep_ratio=7),
    "class": lambda found: ours(found)["method"].update(pruner=["x"]),
    "deep method": lambda found: ours(found)["method"]["pruner"].update(seed=deep(400)),
    "configs": lambda found: found.update(configs="text"),
    "huge seed": lambda found: ours(found).update(seed=10**400),
    "extensions": lambda found: ours(found)["method"].update(predictor={"extensions": 1}),
}


def ours(found):
    return found["config"]["resolved_cli_args"]["lmms_kvtp"]


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("what", DAMAGED)
def test_a_run_whose_results_are_damaged_is_named_and_left_out(tmp_path, what):
    write_base(tmp_path / "full", [1, 1, 0])
    write_run(tmp_path / "bad", samples([1, 0, 0]))
    [path] = (tmp_path / "bad").rglob("*_results.json")
    found = json.loads(path.read_text())
    DAMAGED[what](found)
    path.write_text(json.dumps(found))
    board = read_board(tmp_path)
    assert [row.name for row in board.rows] == ["all tokens"]
    [left] = board.left
    assert left.what == str(path)
    assert left.why.startswith("not a results file of the harness: $.con") and len(left.why) < 300


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", '{"a": \x00}', "", '"\\ud800"'])
def test_a_results_file_that_is_none_is_named_and_left_out(tmp_path, text):
    write_base(tmp_path / "full", [1, 1, 0])
    (tmp_path / "1_results.json").write_bytes(text.encode("latin-1"))
    [left] = read_board(tmp_path).left
    assert "1_results.json" in left.what and left.why.startswith("not ")


@pytest.mark.parametrize("name", ["1_results.json", "2_samples_look.jsonl", "1_journal_rank0.jsonl", "gates.json"])
@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "link"])
def test_a_name_that_leads_to_no_file_takes_no_other_run_down(tmp_path, name, make):
    write_base(tmp_path / "full", [1, 1, 0])
    write_run(tmp_path / "bad", samples([1, 0, 0]))
    [path] = (tmp_path / "bad").rglob("*_samples_*.jsonl")
    wrong = path if "samples" in name else tmp_path / "other" / name
    wrong.unlink() if wrong.exists() else wrong.parent.mkdir()
    make(wrong)
    board = read_board(tmp_path)
    assert "all tokens" in [row.name for row in board.rows]
    left = [item.what for item in [*board.left, *find_records([tmp_path])[1]]]
    assert any(str(wrong) in what for what in left) == ("journal" not in name)


ODD_COSTS = [{"tokens_kept": "x"}, {"flops": [1]}, {"tokens_kept": 10**400}, {"seconds": {"a": -1}}]


@pytest.mark.parametrize("cost", ODD_COSTS)
def test_a_run_whose_costs_are_none_is_named_and_left_out(tmp_path, cost):
    write_base(tmp_path / "full", [1, 1, 0])
    write_run(tmp_path / "bad", samples([1, 0, 0], cost={"tokens_before": 9, "tokens_kept": 3, **cost}))
    board = read_board(tmp_path)
    assert [row.name for row in board.rows] == ["all tokens"]
    [left], [file] = board.left, (tmp_path / "bad").rglob("*.jsonl")
    assert left.what == f"random, skvqa_synth: {file}" and board.refused == 1


def test_surrogates_in_names_do_not_stop_the_pages(tmp_path):
    write_base(tmp_path / "full", [1, 1, 0])
    rows = [{**row, "kind": "\ud800"} for row in samples([1, 0, 0])]
    write_run(tmp_path / "odd", rows, parts={"pruner": {"class": "a:\ud800"}})
    board = read_board(tmp_path)
    assert sorted(row.name for row in board.rows) == ["?", "all tokens"]
    to_html(board, [], {}).encode()


def test_a_damaged_record_of_gates_is_named_and_the_others_count(tmp_path):
    (tmp_path / "gates.json").write_text("[" * 5000)
    (tmp_path / "x_gates.json").write_text(json.dumps({"method": {}, "gates": [{"name": "a", "passed": True}]}))
    [record], [left] = find_records([tmp_path])
    assert record.count == 1
    assert left.what == str(tmp_path / "gates.json") and "no record of lmms-kvtp doctor" in left.why
