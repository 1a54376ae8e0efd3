"""Qwen3-VL on look-alikes of stock tasks: methods in one sweep from the command line, and one of them on two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import stock
from helpers.native_checkpoints import write_native

from lmms_kvtp.presets import settings_of

TASKS = "alike_mvbench,alike_mlvu,alike_longvideobench_v"
METHODS = {"kvtp+prumerge": 0.3, "fastv": 0.3, "prunevid": 0.3, "vidcom2": 0.3}
SIGLIP = Path(__file__).parents[1] / "goldens" / "siglip_tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native")
    write_native("qwen3_vl", folder / "qwen3_vl", penalty=1.1)
    stock.write_tasks(folder / "tasks", folder / "home")
    small = "max_num_frames=8,min_pixels=4096,max_pixels=30000"
    common = f"pretrained={folder / 'qwen3_vl'},{small},encoder.pretrained={SIGLIP}"
    given = ["--tasks", TASKS, "--include_path", "tasks", "--model_args"]
    sweep = ["lmms_kvtp", "sweep", "--methods", ",".join(METHODS), "--ratios", "0.3", "--out", "swept"]
    run(folder, sweep, [*given, common])
    settings = ",".join(f"{name}={value}" for name, value in settings_of("vidcom2", 0.3).items())
    ranks = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29683", "-m", "lmms_eval"]
    ranks += ["--model", "qwen3_vl_kvtp", "--log_samples", "--output_path", "ranks", "--batch_size", "2"]
    run(folder, ranks, [*given, f"{common},{settings}"])
    return folder


def run(folder: Path, command: list[str], more: list[str]) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    environment = os.environ | offline | {"ACCELERATE_USE_CPU": "true"}
    told = [sys.executable, "-P", "-m", *command, *more]
    done = subprocess.run(told, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def texts(folder: Path) -> dict[tuple[str, int], str]:
    """Texts of the newest run in a folder, by task and document."""
    found = {}
    for file in sorted(folder.rglob("*_samples_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found |= {(file.stem.partition("_samples_")[2], row["doc_id"]): row["filtered_resps"][0] for row in rows}
    return found


def test_every_method_answers_every_question_at_its_own_budget(folder: Path) -> None:
    cells = {path.name: path for path in (folder / "swept").iterdir() if path.is_dir()}
    assert len(cells) == len(METHODS)
    said = {name: texts(path) for name, path in cells.items()}
    assert {len(found) for found in said.values()} == {3 + 3 + 2}
    assert len({tuple(found.values()) for found in said.values()}) > 1
    costs = {}
    for name, path in cells.items():
        lines = [json.loads(line) for file in path.rglob("*.jsonl") for line in file.read_text().splitlines()]
        costs[name] = [line["cost"] for line in lines if "cost" in line]
        assert len(costs[name]) == 8 and not any(line.get("error") for line in lines)
    [shares] = [
        {cost["tokens_kept"] / cost["tokens_before"] for cost in own} for n, own in costs.items() if "vidc" in n
    ]
    assert all(abs(share - 0.3) < 0.01 for share in shares)
    assert all(cost["layer_lengths"][0] > cost["layer_lengths"][-1] for cost in costs["fastv_30"])


def test_two_ranks_answer_as_one(folder: Path) -> None:
    one, two = texts(folder / "swept" / "vidcom2_30"), texts(folder / "ranks")
    assert one == two and len(set(one.values())) > 1
