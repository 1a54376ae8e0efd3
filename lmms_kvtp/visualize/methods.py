"""Methods as a user types them: a short name, or settings."""

from collections.abc import Sequence

from lmms_kvtp.presets import FULL, method_settings


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
