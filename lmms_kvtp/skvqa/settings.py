"""What environment variables set for the tasks."""

import os

from lmms_kvtp.skvqa.stats import BETA, MIN_FRAMES, Criteria

BETA_VARIABLE = "LMMS_KVTP_SKVQA_BETA"
FRAMES_VARIABLE = "LMMS_KVTP_SKVQA_MIN_FRAMES"
MISSING_VARIABLE = "LMMS_KVTP_SKVQA_MISSING"


def criteria() -> Criteria:
    """Beta and the least number of frames.

    Raises:
        ValueError: a variable holds no number, or one that is out of range.
    """
    return Criteria(_number(BETA_VARIABLE, BETA), int(_number(FRAMES_VARIABLE, float(MIN_FRAMES))))


def ignore_missing() -> bool:
    """Missing videos are left to the model.

    Raises:
        ValueError: the variable holds another word.
    """
    word = os.environ.get(MISSING_VARIABLE, "error")
    if word not in ("error", "ignore"):
        raise ValueError(f"{MISSING_VARIABLE}={word!r}: wanted error or ignore")
    return word == "ignore"


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "").strip()
    try:
        return float(text) if text else default
    except ValueError as error:
        raise ValueError(f"{variable}={text!r} is not a number") from error
