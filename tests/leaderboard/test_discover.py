"""Many sample files, read by one process or by several."""

import gc
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
from helpers.harness_files import read_board, samples, write_base, write_run

from lmms_kvtp.leaderboard import discover as module
from lmms_kvtp.leaderboard.discover import pending_summaries
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
