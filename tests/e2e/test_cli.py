"""The harness's own command line with our model: one whole run, one that is killed and resumed, one with a typo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import checkpoints, lookalike

TASK = "skvqa_synth_look"
VIDEOS, QUESTIONS = 5, 4
METHOD = "keep_ratio=0.4,allocator.temperature=1"


class Harness:
    """Starts `lmms-eval` in an unrelated folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = checkpoints.write_tiny(folder / "models" / "random")
        lookalike.write_task(folder / "task", TASK, VIDEOS, QUESTIONS)

    def start(self, name, model="llava_video_kvtp", task=TASK, arguments="", more=()):
        out = self.folder / name
        command = [sys.executable, "-P", "-m", "lmms_eval", "--model", model, "--tasks", task, "--log_samples"]
        command += ["--output_path", str(out), "--model_args", f"pretrained={self.checkpoint},{METHOD}{arguments}"]
        command += more
        if task == TASK:
            command += ["--include_path", str(self.folder / "task")]
        home = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(command, cwd=self.folder, env=os.environ | home, stdout=log, stderr=log)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def results(self, name):
        files = list((self.folder / name).rglob("*_results.json"))
        assert len(files) == 1, self.log(name)[-3000:]  # the harness exits 0 when an evaluation fails
        return json.loads(files[0].read_text())

    def samples(self, name):
        [file] = (self.folder / name).rglob(f"*_samples_{TASK}.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return {row["question_id"]: row for row in rows}

    def answers(self, name):
        """Lines of the journal, the torn one left out."""
        files = sorted((self.folder / name).rglob("*_journal_rank0.jsonl"))
        lines = [line for file in files for line in file.read_text().split("\n")[1:-1]]
        return {json.loads(line)["document"].split(":")[1]: json.loads(line) for line in lines}


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    harness = Harness(tmp_path_factory.mktemp("e2e"))
    cache = ["--use_cache", str(harness.folder / "cache"), "--process-docs-parallel", "2"]
    whole, killed = harness.start("whole", model="llava_vid_kvtp", more=cache), harness.start("killed")
    try:
        while len(harness.answers("killed")) < 3:
            assert killed.poll() is None, harness.log("killed")[-3000:]
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        resumed = harness.start("resumed", arguments=f",resume={harness.folder / 'killed'}")
        assert whole.wait() == 0
        typo = harness.start("typo", task="skvqa_synth_quick", arguments=",prunner=tome")
        cached = harness.start("cached", model="llava_vid_kvtp", more=cache)
        assert resumed.wait() == cached.wait() == 0
        typo.wait()
    finally:
        for run in (whole, killed):
            run.kill()
    return harness


def test_a_run_leaves_results_with_the_effective_method(harness):
    results = harness.results("whole")
    told = results["config"]["resolved_cli_args"]["lmms_kvtp"]
    assert results["versions"] == {TASK: 1.5}
    assert told["method"]["allocator"]["temperature"] == 1.0
    assert told["method"]["keep_ratio"] == 0.4
    assert told["method"]["encoder"]["pretrained"] == str(harness.checkpoint / "siglip")
    assert {"torch", "transformers", "lmms_eval", "lmms_kvtp"} <= set(told["versions"])


def test_samples_carry_their_cost(harness):
    samples = harness.samples("whole")
    assert len(samples) == VIDEOS * QUESTIONS
    for sample in samples.values():
        [counts] = sample["token_counts"]
        assert counts["tokens_kept"] == int(0.4 * counts["tokens_before"]) == sample["kept"]
        assert counts["input_tokens"] == counts["prompt_tokens"] == counts["layer_lengths"][0]
        assert counts["questions_on_video"] == QUESTIONS
        assert {"decode", "vision", "encoder", "scorer", "pruner", "prefill"} <= set(counts["seconds"])
    efficiency = harness.results("whole")["efficiency"]["overall"]
    assert efficiency["total_input_tokens"] == sum(s["token_counts"][0]["input_tokens"] for s in samples.values())


def test_the_journal_of_a_killed_run_lies_beside_where_its_results_would_be(harness):
    assert not list((harness.folder / "killed").rglob("*_results.json"))
    assert 3 <= len(harness.answers("killed")) < VIDEOS * QUESTIONS


def test_a_resumed_run_ends_like_one_that_was_never_killed(harness):
    whole, resumed = harness.samples("whole"), harness.samples("resumed")
    kept = ("filtered_resps", "score", "kept", "input")
    assert {q: [s[name] for name in kept] for q, s in resumed.items()} == {
        q: [s[name] for name in kept] for q, s in whole.items()
    }
    assert len({sample["filtered_resps"] for sample in whole.values()}) > 3
    assert (
        harness.results("resumed")["results"][TASK]["kept,none"]
        == harness.results("whole")["results"][TASK]["kept,none"]
    )


def test_answers_of_the_harness_s_own_cache_are_the_same_and_have_no_cost_rather_than_none_at_all(harness):
    whole, cached = harness.samples("whole"), harness.samples("cached")
    assert {q: s["filtered_resps"] for q, s in cached.items()} == {q: s["filtered_resps"] for q, s in whole.items()}
    assert {s["kept"] for s in cached.values()} == {-1}  # the task's own word for an answer without cost
    assert not any((s.get("token_counts") or [None])[0] for s in cached.values())


def test_no_finished_answer_is_made_again(harness):
    before, resumed = harness.answers("killed"), harness.samples("resumed")
    assert f"resumed {len(before)} answers from" in harness.log("resumed")
    assert harness.results("resumed")["config"]["resolved_cli_args"]["lmms_kvtp"]["resumed"] == len(before)
    for question, line in before.items():
        [counts] = resumed[question]["token_counts"]
        assert counts["seconds"] == line["cost"]["seconds"]  # measured once
    assert set(harness.answers("resumed")) == set(resumed)


def test_a_task_of_ours_is_found_without_a_flag_and_a_typo_gets_near_matches(harness):
    log = harness.log("typo")
    assert "Tasks not found" not in log
    assert "unknown argument 'prunner'; did you mean pruner" in log
    assert not list((harness.folder / "typo").rglob("*_results.json"))
