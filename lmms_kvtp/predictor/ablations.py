"""What of a trained predictor is varied, to see what it contributes."""

from collections.abc import Mapping
from typing import Any

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Of the allocation; the paper's figure 7 has 0.5 to 8."""
CLIP_SIZES = (1, 4, 8, 16, 32)
SHARES = ((0.0, 0.0), (0.05, 0.0), (0.0, 0.05), (0.05, 0.05), (0.1, 0.1), (0.2, 0.2), (0.4, 0.4))
"""theta and phi of eq. 10; the paper's are both 0.05."""


def variants(ablation: str | None) -> dict[str, Mapping[str, Any]]:
    """Settings of the scorer `kvtp` for each row, by what follows the checkpoint's name there."""
    if ablation == "fusion":
        return {f", {t:g} + {p:g}": {"local_weight": t, "global_weight": p} for t, p in SHARES}
    if ablation == "clip_size":
        return {f", clips of {size}": {"clip_size": size} for size in CLIP_SIZES}
    return {"": {}, ", no fusion": {"fusion": False}}
