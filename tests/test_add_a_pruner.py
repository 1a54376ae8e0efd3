"""The example of docs/add_a_pruner.md, as a package of a user."""

import re
import sys
from pathlib import Path

import pytest
import torch

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.types import FrameFeatures, FrameTokens

PAGE = (Path(__file__).parent.parent / "docs" / "add_a_pruner.md").read_text()


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "outlier.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.S).group(1))
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: my_package\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[lmms_kvtp.pruners]\noutlier = my_package.outlier:Outlier\n")
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
