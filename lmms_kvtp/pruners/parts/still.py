"""Positions that stand still in a scene, which are merged over its frames, and the tokens that move."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.pruners.base import chunks


def affordable(scores: Float[Tensor, "S N"], threshold: float, lengths: list[int], spare: int) -> Bool[Tensor, "S N"]:
    """The positions above a threshold, the highest first as long as at most `spare` tokens are merged away.

    Args:
        scores: how still each position of each scene is.
        threshold: that a static position exceeds.
        lengths: frames of each scene; a static position leaves one token of these.
        spare: tokens that may go, so that enough remain for the budget.
    """
    saved = torch.tensor(lengths, device=scores.device)[:, None].expand_as(scores).flatten() - 1
    order = scores.flatten().argsort(descending=True, stable=True)
    static = torch.zeros_like(saved, dtype=torch.bool)
    static[order] = saved[order].cumsum(0) <= spare
    return static.reshape(scores.shape) & (scores > threshold)


def still_and_moving(
    scenes: list[slice], static: Bool[Tensor, "S N"], budgets: Int[Tensor, " T"]
) -> tuple[list[Int[Tensor, "W n"]], Float[Tensor, " G"]]:
    """What shares a part of the budget, as token numbers through the video, and the weight of each in the total.

    The rows of a group are frames: all of the scene's for its static positions, one for the tokens of a frame that
    move. A group weighs the budget of its frame, or the scene's mean, times its columns; groups without any are left
    out.
    """
    groups, weights = [], []
    for scene, still in zip(scenes, static, strict=True):
        frames = torch.arange(scene.start, scene.stop, device=still.device)[:, None] * len(still)
        parts = [(frames + torch.nonzero(still).T, float(budgets[scene].double().mean()))]
        moving = frames + torch.nonzero(~still).T
        parts += [(row[None], float(budget)) for row, budget in zip(moving, budgets[scene], strict=True)]
        for group, weight in parts:
            if group.shape[1]:
                groups.append(group)
                weights.append(weight * group.shape[1])
    return groups, torch.tensor(weights)


def averages(flat: Float[Tensor, "M D"], group: Int[Tensor, "W n"]) -> Float[Tensor, "n D"]:
    """The mean over the rows of a group of each of its columns, in float32, a few frames at a time."""
    sums = [flat[group[part]].sum(dim=0, dtype=torch.float32) for part in chunks(group)]
    return torch.stack(sums).sum(dim=0) / len(group)
