"""From look-alike data to the table: indexes built from images, then the group `skvqa` through the harness, offline."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import hub, skvqa_lookalikes

from lmms_kvtp.__main__ import main
from lmms_kvtp.harness.results import CIRCULAR
from lmms_kvtp.tasks.skvqa.utils import BINS

TASKS = ["skvqa_egoschema", "skvqa_nextqa", "skvqa_videomme"]
GOLDENS = Path(__file__).parents[1] / "goldens" / "skvqa_prompts"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Results and samples of one run of KVTP with the encoder that made the index, which lies in the hub's cache."""
    folder, look = tmp_path_factory.mktemp("skvqa"), skvqa_lookalikes
    home = folder / "hf"
    look.write_harness_cache(home)
    rows = {"videomme": look.videomme_rows(2, 2), "egoschema": look.egoschema_rows(2), "nextqa": look.nextqa_rows(2, 2)}
    for name, listed in rows.items():
        annotations = look.write_json(folder / f"{name}.json", listed)
        build = ["skvqa", "build", "--dataset", name, "--annotations", annotations, "--videos", home / name]
        build += ["--out", folder / "index", "--captioner", "none", "--scorer", "siglip:tiny"]
        assert main([str(part) for part in build]) == 0
    index = {f"{name}.jsonl": (folder / "index" / f"{name}.jsonl").read_bytes() for name in rows}
    hub.write_hub(home / "hub", "somebody/skvqa", index)
    settings = "pretrained=tiny,allow_toy=true,keep_ratio=0.4,pruner=random"
    command = [sys.executable, "-P", "-m", "lmms_eval", "--model", "llava_video_kvtp", "--model_args", settings]
    command += ["--tasks", "skvqa", "--output_path", str(folder / "out"), "--log_samples"]
    environment = {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "LMMS_KVTP_SKVQA_INDEX": "somebody/skvqa",
        "LMMS_KVTP_SKVQA_BETA": "1",
        "LMMS_KVTP_SKVQA_MIN_FRAMES": "20",
    }
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    files = list((folder / "out").rglob("*_results.json"))
    assert len(files) == 1, done.stderr[-4000:] + done.stdout[-2000:]
    samples = {}
    for task in TASKS:
        [file] = (folder / "out").rglob(f"*_samples_{task}.jsonl")
        samples[task] = [json.loads(line) for line in file.read_text().splitlines()]
    return json.loads(files[0].read_text()), samples


def test_the_three_tasks_and_their_group_are_reported(run: Any) -> None:
    results, samples = run
    assert {task: len(listed) for task, listed in samples.items()} == dict(zip(TASKS, (2, 4, 4), strict=True))
    scores = [sample["score"] for listed in samples.values() for sample in listed]
    for task, listed in samples.items():
        accuracy = 100 * sum(sample["score"] for sample in listed) / len(listed)
        assert results["results"][task]["skvqa_acc,none"] == pytest.approx(accuracy)
        for low, high, name in BINS:
            inside = [100 * sample["score"] for sample in listed if low <= sample["sparsity"] < high]
            mean = pytest.approx(sum(inside) / len(inside)) if inside else "N/A"
            assert results["results"][task][f"acc_sparsity_{name},none"] == mean
        assert results["results"][task]["unparsable,none"] >= 0
    assert results["groups"]["skvqa"]["skvqa_acc,none"] == pytest.approx(100 * sum(scores) / len(scores))


def test_beta_and_index_stand_in_the_results_file(run: Any) -> None:
    told = {task: run[0]["results"][task]["selection,none"] for task in TASKS}
    assert all(re.fullmatch(r"beta 1, at least 20 frames, index [0-9a-f]{12}", text) for text in told.values())
    assert len(set(told.values())) == 3  # a file for each data set
    assert all(sample["selection"] == told[task] for task in TASKS for sample in run[1][task])


def test_an_index_of_the_encoder_that_the_run_scores_with_is_circular(run: Any) -> None:
    assert run[0]["config"]["resolved_cli_args"]["lmms_kvtp"]["notes"] == dict.fromkeys(TASKS, CIRCULAR)


def test_the_prompt_that_is_sent_is_that_of_the_golden(run: Any) -> None:
    for task in TASKS:
        golden = (GOLDENS / f"{task.removeprefix('skvqa_')}.txt").read_text().removesuffix("\n")
        assert golden in [sample["input"] for sample in run[1][task]]


def test_samples_carry_the_video_for_clusters_the_sparsity_and_the_cost(run: Any) -> None:
    for sample in (sample for listed in run[1].values() for sample in listed):
        assert sample["video_id"] == sample["skvqa_acc"]["video_id"] != ""
        assert 1 <= sample["sparsity"] < 20
        assert sample["vision_tokens_kept"] == int(0.4 * 20 * 36)
        assert sample["keep_ratio_actual"] == pytest.approx(0.4)
