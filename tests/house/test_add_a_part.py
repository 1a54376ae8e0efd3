"""Examples of docs/add_a_part.md, add_a_pruner.md and layer_pruning.md pass the contract tests as they are printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.resolve import resolve

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "Novelty": ("scorers", "add_a_part"),
    "Ranked": ("allocators", "add_a_part"),
    "EveryOther": ("layer_pruning", "layer_pruning"),
    "Outlier": ("pruners", "add_a_pruner"),
}
"""Entry-point group and page of each example, by its class."""


def test_every_example_passes_its_contract_as_printed(tmp_path):
    package, info = tmp_path / "my_parts", tmp_path / "my_parts-1.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (info / "METADATA").write_text("Name: my_parts\nVersion: 1\n")
    entries = ""
    for name, (group, page) in EXAMPLES.items():
        codes = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S)
        [code] = [code for code in codes if f"class {name}(" in code]
        assert len(code.partition("@dataclass")[2].splitlines()) <= 20
        (package / f"{name.lower()}.py").write_text(code)
        entries += f"[lmms_kvtp.{group}]\n{name.lower()} = my_parts.{name.lower()}:{name}\n"
    (info / "entry_points.txt").write_text(entries)
    files = [f"tests/contracts/test_{part}.py" for part in ("pruners", "scorers", "allocators", "layer_pruners")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *files, "-k"]
    run = subprocess.run(
        [*command, " or ".join(name.lower() for name in EXAMPLES)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    passed, skipped = re.search(r"(\d+) passed, (\d+) skipped", run.stdout).groups()
    assert int(passed) > 50 and int(skipped) == 1, run.stdout[-500:]


def test_a_module_in_the_working_directory_that_is_not_searched_is_said_to_lie_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match=r"No module named 'not_searched'; install its package"):
        resolve("lmms_kvtp.pruners", "not_searched:Mine", TokenPruner)
    (tmp_path / "not_searched.py").touch()
    with pytest.raises(LookupError, match=r"not_searched.py lies in the working directory: set PYTHONPATH=\."):
        resolve("lmms_kvtp.pruners", "not_searched:Mine", TokenPruner)
