"""Short names of methods: `random`, `kvtp+prumerge`, `oracle/aks+grid`, `my_pkg.pruners:Mine`."""

from collections.abc import Sequence

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


def typed(texts: Sequence[str], ratios: Sequence[float]) -> dict[str, dict[str, str]]:
    """Settings, as of --model_args, by the name of their row.

    Args:
        texts: each `kvtp+prumerge`, as in `lmms-kvtp sweep`, which is taken at every ratio; or settings with their own
            ratio, `pruner=tome,keep_ratio=0.1`.
        ratios: shares of vision tokens kept.

    Raises:
        LookupError: a short name is unknown.
        ValueError: a ratio is outside (0, 1], or settings are no pairs.
    """
    found: dict[str, dict[str, str]] = {}
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio {ratio} is outside (0, 1]; it is the share of vision tokens kept")
    for text in texts:
        if "=" in text:
            found[text] = method_settings(text)
            continue
        for ratio in ratios:
            name = "all tokens" if text == FULL else f"{text} {100 * ratio:g}%"
            found[name] = method_settings(text, ratio)
    return found
