"""docs/add_a_pruner.md, installed as a package of a user."""

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import checkpoints, lookalike

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.types import FrameFeatures, FrameTokens

PAGE = (Path(__file__).parents[2] / "docs" / "add_a_pruner.md").read_text()
TASK = "skvqa_synth_look"


def write_package(folder: Path) -> None:
    """The page's files, and what pip would write of its entry points."""
    package, info = folder / "my_package", folder / "my_package-1.dist-info"
    for part in (package, info):
        part.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    files = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    for name, content in zip(("outlier", "rows", "ids"), files, strict=True):
        (package / f"{name}.py").write_text(content)
    settings = configparser.ConfigParser()
    settings.read_string(re.search(r"```ini\n(.*?)```", PAGE, re.S).group(1))
    (info / "METADATA").write_text("Name: my_package\nVersion: 1\n")
    groups = settings["options.entry_points"].items()
    (info / "entry_points.txt").write_text("".join(f"[{group}]{entries}\n" for group, entries in groups))


@pytest.fixture
def package(tmp_path, monkeypatch):
    write_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["my_package.outlier:Outlier", "outlier"])
def test_the_example_is_found_and_keeps_the_odd_patch(package, name):
    embeds = torch.zeros(2, 12, 3)
    embeds[0, 7], embeds[1, 2] = 5.0, -4.0
    pruner = resolve("lmms_kvtp.pruners", name, TokenPruner)()
    packed = pruner.prune(FrameTokens(embeds, (3, 4)), FrameFeatures(torch.arange(2.0)), torch.tensor([1, 1]))
    assert packed.patch.tolist() == [7, 2]


def test_an_installed_entry_point_is_listed(package):
    assert "outlier" in available("lmms_kvtp.pruners")


def test_the_command_line_lists_the_id_of_another_package_and_runs_its_method_and_its_class(tmp_path):
    write_package(tmp_path / "site")
    checkpoint = checkpoints.write_tiny(tmp_path / "random")
    lookalike.write_task(tmp_path / "task", TASK, videos=1, questions=2)
    home = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment = os.environ | home | {"PYTHONPATH": str(tmp_path / "site")}

    def harness(*arguments):
        command = [sys.executable, "-P", "-m", "lmms_eval", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    listed = harness("models", "--aliases").stdout
    assert re.search(r"^llava_video_outlier +simple +my_outlier$", listed, re.M)
    by_class = "scorer=uniform,allocator=uniform,keep_ratio=0.1,pruner=my_package.outlier:Outlier,"
    steps = [
        {
            "model": model,
            "model_args": f"pretrained={checkpoint},{settings}pruner.power=1",
            "tasks": TASK,
            "include_path": str(tmp_path / "task"),
            "output_path": str(tmp_path / model),
            "log_samples": True,
        }
        for model, settings in {"my_outlier": "", "llava_video_kvtp": by_class}.items()
    ]
    (tmp_path / "steps.yaml").write_text(json.dumps(steps))  # JSON is YAML
    run = harness("--config", str(tmp_path / "steps.yaml"))
    for step in steps:
        files = list(Path(step["output_path"]).rglob("*_results.json"))
        assert len(files) == 1, run.stderr[-3000:]
        method = json.loads(files[0].read_text())["config"]["resolved_cli_args"]["lmms_kvtp"]["method"]
        assert method["pruner"] == {"class": "my_package.outlier:Outlier", "power": 1.0}
        [file] = Path(step["output_path"]).rglob("*_samples_*.jsonl")
        for line in file.read_text().splitlines():
            [counts] = json.loads(line)["token_counts"]
            assert counts["tokens_kept"] == int(0.1 * counts["tokens_before"]) > 0
