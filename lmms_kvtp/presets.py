"""Short names of methods: `random`, `kvtp+prumerge`, `oracle/aks+grid`, `my_pkg.pruners:Mine`."""

from lmms_kvtp.resolve import near
from lmms_kvtp.settings import pairs

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


METHOD_HELP = "full, a pruner's name, kvtp+prumerge and the like, or name=value,... as in --model_args"


def method_settings(text: str, keep_ratio: float | None = None) -> dict[str, str]:
    """What one argument of the command line means: a short name, or settings.

    Args:
        text: as METHOD_HELP says; empty for the wrapper's defaults.
        keep_ratio: over the one in `text`; of a short name 0.2 where it is None.

    Raises:
        LookupError: there is no such preset.
        ValueError: settings that are no pairs.
    """
    if text and "=" not in text:
        return settings_of(text, 0.2 if keep_ratio is None else keep_ratio)
    return pairs(text) | ({} if keep_ratio is None else {"keep_ratio": f"{keep_ratio:g}"})


def settings_of(name: str, keep_ratio: float) -> dict[str, str]:
    """The `--model_args` of a method.

    Args:
        name: `full`; a pruner, with equal budgets; `preset+pruner`; or `scorer/allocator+pruner`. A part is a
            component's name, or `package.module:Class`.
        keep_ratio: share of vision tokens kept.

    Raises:
        LookupError: there is no such preset.
    """
    if name == FULL:
        return {**PRESETS["uniform"], "pruner": "none", "keep_ratio": "1"}
    before, plus, after = name.partition("+")
    preset, pruner = (before, after) if plus else ("uniform", before)
    scorer, slash, allocator = preset.partition("/")
    if slash:
        return {"scorer": scorer, "allocator": allocator, "pruner": pruner, "keep_ratio": f"{keep_ratio:g}"}
    if preset not in PRESETS:
        raise LookupError(f"method {name!r}: no preset named {preset!r} before the +; {near(preset, list(PRESETS))}")
    return {**PRESETS[preset], "pruner": pruner, "keep_ratio": f"{keep_ratio:g}"}
