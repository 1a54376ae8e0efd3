"""From clip scores to pruning rates, and from these to how sparse the evidence in a video is (eq. 1 of KVTP)."""

import math
from collections.abc import Sequence

CLIP_SIZE = 8
"""Frames of a clip (section 3 of the paper)."""
ALPHA = 0.2
"""Mean rate; sparsity does not depend on it."""
TEMPERATURE = 1.0
"""Of the softmax over labels, which the paper leaves unadjusted (section 5.3); the released filter has 2."""


def clip_bounds(num_frames: int, clip_size: int = CLIP_SIZE) -> list[tuple[int, int]]:
    """First and last frame of each clip, in order; the last clip may be shorter."""
    return [(start, min(start + clip_size, num_frames) - 1) for start in range(0, num_frames, clip_size)]


def clip_rates(
    scores: Sequence[float],
    num_frames: int,
    clip_size: int = CLIP_SIZE,
    alpha: float = ALPHA,
    temperature: float = TEMPERATURE,
) -> tuple[float, ...]:
    """The rate of a frame of each clip: alpha * N * softmax(s / temperature) over the N frames.

    Rates are not cut at 1: the mean over frames is `alpha` exactly.

    Args:
        scores: of the clips; their frames share them.
        num_frames: N.
        clip_size: frames of a clip; the last may have fewer.
        alpha: mean rate.
        temperature: > 0.

    Raises:
        ValueError: the number of scores is not that of the clips, or a setting is out of range.
    """
    bounds = clip_bounds(num_frames, clip_size)
    if len(scores) != len(bounds):
        raise ValueError(f"{len(scores)} scores for the {len(bounds)} clips of {num_frames} frames")
    if not (temperature > 0 and alpha > 0):
        raise ValueError(f"temperature={temperature} and alpha={alpha} must be above 0")
    top = max(scores)
    weights = [math.exp((score - top) / temperature) for score in scores]
    frames = [last - first + 1 for first, last in bounds]
    total = sum(weight * count for weight, count in zip(weights, frames, strict=True))
    return tuple(alpha * num_frames * weight / total for weight in weights)


def sparsity_of(rates: Sequence[float], alpha: float = ALPHA) -> float:
    """Highest rate over mean rate: 1 where all frames are equal, N where one frame holds everything (table 1)."""
    return max(rates) / alpha
