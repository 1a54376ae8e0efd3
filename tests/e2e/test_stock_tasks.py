"""Look-alikes of stock tasks through the harness's command line: in one process, in batches, and on two ranks."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints, stock

METHOD = "keep_ratio=0.4,scorer=uniform,allocator=uniform,pruner=random,max_frames_num=7"


class Runs:
    """Starts `lmms-eval` in an unrelated folder, and reads what it left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.checkpoint = checkpoints.write_tiny(folder / "models" / "random")
        self.docs = stock.write_tasks(folder / "tasks", self.home)

    def run(self, name: str, launcher: list[str], *more: str) -> None:
        command = [
            *launcher,
            "lmms_eval",
            "--model",
            "llava_video_kvtp",
            "--tasks",
            ",".join(self.docs),
            "--log_samples",
        ]
        command += ["--include_path", str(self.folder / "tasks"), "--output_path", str(self.folder / name), *more]
        command += ["--model_args", f"pretrained={self.checkpoint},{METHOD}", "--verbosity", "DEBUG"]
        environment = {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        }
        log = self.folder / f"{name}.log"
        with log.open("w") as file:
            run = subprocess.run(command, cwd=self.folder, env=os.environ | environment, stdout=file, stderr=file)
        assert run.returncode == 0, log.read_text()[-4000:]

    def results(self, name: str) -> dict[str, Any]:
        [file] = (self.folder / name).rglob("*_results.json")
        return dict(json.loads(file.read_text()))

    def samples(self, name: str) -> dict[tuple[str, int], dict[str, Any]]:
        found = {}
        for task in self.docs:
            [file] = (self.folder / name).rglob(f"*_samples_{task}.jsonl")
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            assert len(rows) == len(self.docs[task])
            found |= {(task, row["doc_id"]): row for row in rows}
        return found

    def answered(self, name: str) -> list[set[str]]:
        """Documents in the journal of each rank."""
        files = sorted((self.folder / name).rglob("*_journal_rank*.jsonl"))
        return [{json.loads(line)["document"] for line in file.read_text().splitlines()[1:]} for file in files]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("stock"))
    alone, two = [sys.executable, "-P", "-m"], ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    runs.run("alone", alone)
    ranks = [sys.executable, "-P", *two, "--master_port", "29671", "-m"]
    runs.run("ranks", ranks, "--batch_size", "3")
    return runs


def test_every_kind_of_visual_is_answered(runs: Runs) -> None:
    kept, frames = defaultdict(set), defaultdict(set)
    for (task, _), sample in runs.samples("alone").items():
        [counts] = sample["token_counts"]
        assert "error" not in counts
        kept[task].add(counts["tokens_kept"])
        frames[task].add(counts["num_frames"])
    assert frames["alike_text_only"] == {0} and kept["alike_text_only"] == {0}
    assert frames["alike_mvbench_frames"] == {7}  # of eleven image files in a folder
    assert frames["alike_pictures"] == {1, 4}
    assert frames["alike_longvideobench_i"] == {5}
    assert frames["alike_two_videos"] == {12}
    assert frames["alike_mvbench"] == frames["alike_mlvu"] == frames["alike_activitynetqa"] == {6}
    assert kept["alike_two_videos"] == {2 * int(0.4 * 6 * 25)}
    assert len({sample["filtered_resps"] for sample in runs.samples("alone").values()}) > 8


def test_the_tasks_score_them_their_own_way(runs: Runs) -> None:
    results = runs.results("alone")["results"]
    assert {"mvbench_accuracy,none", "accuracy,none"} <= {key for task in results.values() for key in task}
    assert set(runs.docs) <= set(results)


def test_two_ranks_give_the_same_answers_in_batches(runs: Runs) -> None:
    alone, ranks = runs.samples("alone"), runs.samples("ranks")
    assert set(alone) == set(ranks)
    for key, sample in alone.items():
        assert ranks[key]["filtered_resps"] == sample["filtered_resps"], key
        assert ranks[key]["token_counts"][0]["tokens_kept"] == sample["token_counts"][0]["tokens_kept"]
    same = {task: values for task, values in runs.results("alone")["results"].items() if task in runs.docs}
    for task, values in same.items():
        again = runs.results("ranks")["results"][task]
        for key, value in values.items():  # lvb_acc is drawn at random where that task cannot read an answer
            assert "stderr" in key or key == "lvb_acc,none" or again[key] == value, (task, key)


def test_questions_on_one_video_meet_on_one_rank(runs: Runs) -> None:
    first, second = runs.answered("ranks")
    assert not first & second
    assert len(first) + len(second) == len(runs.samples("alone"))
    assert min(len(first), len(second)) > 5
    for documents in (
        ["mvbench:alike_mvbench/0", "mvbench:alike_mvbench/2"],
        ["mlvu:alike_mlvu/0", "mlvu:alike_mlvu/1"],
        [f"perceptiontest:alike_perceptiontest/{n}" for n in range(3)],
    ):
        names = {f"alike_{document}" for document in documents}
        assert names <= first or names <= second


def test_costs_of_both_ranks_reach_the_results(runs: Runs) -> None:
    ranks = runs.results("ranks")
    efficiency = ranks["efficiency"]["overall"]
    samples = runs.samples("ranks").values()
    assert efficiency["total_input_tokens"] == sum(sample["token_counts"][0]["input_tokens"] for sample in samples)
    told = ranks["config"]["resolved_cli_args"]["lmms_kvtp"]
    assert (told["batch_size"], told["failed"], told["resumed"]) == (3, 0, 0)
    shared = [sample["token_counts"][0]["questions_on_video"] for sample in samples]
    assert sorted(set(shared)) == [1, 2, 3]
