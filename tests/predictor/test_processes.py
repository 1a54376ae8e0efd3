"""`lmms-kvtp train predictor` in two processes, on three videos of the embedded benchmark and a random SigLIP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmms_kvtp.__main__ import main
from lmms_kvtp.embedded import cache
from lmms_kvtp.predictor.examples import synthetic

TINY = str(Path(__file__).parents[1] / "goldens" / "siglip_tiny")
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmms_kvtp"]


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[str]:
    """The command without its output folder; two videos are learned from, and the third tells the best epoch."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_KVTP_HOME", str(folder / "home"))
        cache.ensure("val", [0, 1, 2])
        lines = [
            {"video": Path(made.source).name, "question": asked.stem, "spans": [[20 * n, 20 * n + 16, 5]]}
            for made in synthetic("val", [0, 1, 2])
            for n, asked in enumerate(made.questions[:3])
        ]
        videos = str(cache.folder())
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = ["--index", str(folder / "index.jsonl"), "--videos", videos, "--features", str(folder / "features")]
    recipe = ["--epochs", "2", "--anchors", "2", "--lr", "0.01", "--validation", "0.34", "--level", "frame"]
    return ["train", "predictor", *data, "--pretrained", TINY, "--max-frames-num", "16", "--fps", "0.25", *recipe]


@pytest.fixture(scope="module")
def one(given, tmp_path_factory) -> Path:
    """What one process learns from two videos a step."""
    out = tmp_path_factory.mktemp("one")
    assert main([*given, "--videos-per-step", "2", "--out", str(out)]) == 0
    return out


def in_two(given: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    command = [*TWO, *given, "--videos-per-step", "1", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_two_processes_learn_what_one_learns_from_twice_the_videos_a_step(given, one, tmp_path):
    run = in_two(given, tmp_path)
    assert run.returncode == 0, run.stderr
    assert len([line for line in run.stdout.splitlines() if line.startswith("| after")]) == 1  # one of them reports
    untuned, alone, both = (load_file(Path(folder) / "model.safetensors") for folder in (TINY, one, tmp_path))
    assert any((alone[name] - untuned[name]).abs().max() > 1e-2 for name in alone)
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_stops_both(given, one, tmp_path):
    """The other would else wait for gradients that never come."""
    features, spoiled = Path(given[given.index("--features") + 1]), tmp_path / "features"
    spoiled.mkdir()
    learned = json.loads((one / "training.json").read_text())["data"]["videos"]
    stored = {path: load_file(path) for path in sorted(features.iterdir())}
    assert learned == 2 and len(stored) == 3
    for number, (path, tensors) in enumerate(stored.items()):
        if number == 0:
            tensors["image"][3] = torch.nan
        save_file(tensors, spoiled / path.name)
    run = in_two([*given, "--features", str(spoiled)], tmp_path / "out")
    assert run.returncode != 0 and not (tmp_path / "out" / "model.safetensors").exists()
    assert "the loss is nan" in run.stderr and "the loss is not finite in another process" in run.stderr
