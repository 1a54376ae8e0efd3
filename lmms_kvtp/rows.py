"""Short names of methods: `random`, `kvtp+prumerge`, `hard+grid`, `my_pkg.pruners:Mine`."""

from lmms_kvtp.resolve import near

FULL = "full"
"""All tokens: the row that others are compared with."""

PRESETS = {
    "uniform": {"scorer": "uniform", "allocator": "uniform"},
    "kvtp": {"scorer": "similarity", "allocator": "softmax"},
    "oracle": {"scorer": "oracle", "allocator": "softmax"},
    "hard": {"scorer": "similarity", "allocator": "hard"},
    "aks": {"scorer": "similarity", "allocator": "aks"},
    "frames": {"scorer": "uniform", "allocator": "frames"},
}
"""What decides how much each frame keeps: scorer and allocator."""


def settings_of(name: str, keep_ratio: float) -> dict[str, str]:
    """The `--model_args` of a method.

    Args:
        name: `full`; a pruner, with equal budgets; or `preset+pruner`. A pruner is a component's name, or
            `package.module:Class`.
        keep_ratio: share of vision tokens kept.

    Raises:
        LookupError: there is no such preset.
    """
    if name == FULL:
        return {**PRESETS["uniform"], "pruner": "none", "keep_ratio": "1"}
    before, plus, after = name.partition("+")
    preset, pruner = (before, after) if plus else ("uniform", before)
    if preset not in PRESETS:
        raise LookupError(f"method {name!r}: no preset named {preset!r} before the +; {near(preset, list(PRESETS))}")
    return {**PRESETS[preset], "pruner": pruner, "keep_ratio": f"{keep_ratio:g}"}
