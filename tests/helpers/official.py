"""Arrays recorded from the authors' released code, as goldens/pruners_official has them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "goldens" / "pruners_official"


class Official:
    """What one released method read and answered, case by case."""

    def __init__(self, method: str) -> None:
        self.arrays = np.load(FOLDER / f"{method}.npz")
        self.about: dict[str, Any] = json.loads((FOLDER / f"{method}.json").read_text())
        self.cases: dict[str, dict[str, Any]] = self.about["cases"]

    def __call__(self, name: str) -> Tensor:
        """Read `CASE/in/NAME` or `CASE/out/NAME`; scaled integers become the numbers that the code read."""
        array, by = self.arrays[name], self.about["divide_by"].get(name)
        array = array if by is None else array.astype(np.float32) / by
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array)


@cache
def official(method: str) -> Official:
    return Official(method)


def cases(*methods: str) -> list[tuple[str, str]]:
    """Method and case, for parametrised tests."""
    return [(method, case) for method in methods for case in official(method).cases]
