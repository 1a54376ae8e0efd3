"""Which kept token each original one went into, found from the gradient of any pruner."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Weighed
from lmms_kvtp.types import ADDED, FEATURES, FrameFeatures, FrameTokens, PackedTokens

NOWHERE = -1
LEAST = 1e-4
"""Share of the largest gradient below which a token counts as dropped: rounding."""
EQUAL = 0.99
"""Share of the largest weight from which on another is as large, but for rounding."""
AT_ONCE = 1024
"""Originals compared with all kept tokens together, in videos of millions of pairs."""


def owners(method: Method, tokens: FrameTokens, given: Weighed, packed: PackedTokens) -> Int[Tensor, "T N"] | None:
    """For each original token, the kept one (counted through `packed`) that it weighs most in.

    Merging is linear in the tokens once a pruner has decided, so the gradient of a kept token by an original is the
    weight of the original in it. One backward pass gives all weights: each kept token is read out along a random
    direction of its own, and the gradient at an original is the sum of the directions of those that it is in.

    Args:
        method: whose pruner is asked again, outside inference mode.
        tokens: before pruning.
        given: what the pruner was given.
        packed: what it kept.

    Returns:
        Positions in `packed`; NOWHERE for tokens that are in none. None where the pruner leaves no gradient, or does
        not keep the same tokens when asked again.
    """
    with torch.inference_mode(False), torch.enable_grad():
        embeds = tokens.embeds.float().clone().requires_grad_()
        again = _again(method, replace(tokens, embeds=embeds), given)
        if again is None or not again.embeds.requires_grad:
            return None
        if not (torch.equal(again.frame, packed.frame) and torch.equal(again.patch, packed.patch)):
            return None
        directions = torch.randn(again.embeds.shape, generator=torch.Generator().manual_seed(0)).to(embeds.device)
        [gradient] = torch.autograd.grad((again.embeds.float() * directions).sum(), embeds)
    if method.pruner.scope == "video":
        found = _strongest(gradient.flatten(0, 1), directions).reshape(gradient.shape[:2])
    else:
        found = torch.full(gradient.shape[:2], NOWHERE)
        for frame, rows in enumerate(gradient):
            own = torch.nonzero(packed.frame == frame).flatten()
            if len(own):
                apart = _apart(packed.patch[own].cpu(), tokens.capacity, tokens.grid[1])
                found[frame] = own.cpu()[_strongest(rows, directions[own], apart)]
    length = gradient.norm(dim=2).cpu()
    return found.masked_fill(length <= LEAST * length.max(), NOWHERE)


def _again(method: Method, tokens: FrameTokens, given: Weighed) -> PackedTokens | None:
    try:
        features = _normal(given.features)
        return method.pruner.prune(tokens, features, given.budgets.clone())
    except RuntimeError:  # an operation that autograd refuses, such as writing into its input
        return None


def _strongest(
    gradient: Float[Tensor, "M D"], directions: Float[Tensor, "K D"], apart: Float[Tensor, "K M"] | None = None
) -> Int[Tensor, " M"]:
    """The direction that each gradient has most of: exactly, where there are not more directions than dimensions.

    Of equal ones (PruMerge gives a neighbour the same weight everywhere) the nearest, where `apart` tells distances.
    """
    if len(directions) > directions.shape[1]:
        unit = directions / directions.norm(dim=1, keepdim=True)
        parts = range(0, len(gradient), AT_ONCE)
        return torch.cat([(gradient[i : i + AT_ONCE] @ unit.T).abs().argmax(dim=1).cpu() for i in parts])
    weights: Tensor = torch.linalg.lstsq(directions.T, gradient.T).solution.abs().cpu()  # [K, M]
    if apart is None:
        return weights.argmax(dim=0)
    nearest: Tensor = apart.masked_fill(weights < EQUAL * weights.amax(dim=0), torch.inf).argmin(dim=0)
    return nearest


def _apart(patches: Int[Tensor, " K"], count: int, columns: int) -> Float[Tensor, "K M"]:
    """Distances of kept patches to all patches of a frame."""
    places = torch.stack([torch.arange(count) // columns, torch.arange(count) % columns], dim=1).float()
    return torch.cdist(places[patches], places)


def _normal(features: FrameFeatures) -> FrameFeatures:
    """Copies that autograd may save; tensors made in inference mode cannot take part."""
    known = {name: getattr(features, name) for name in FEATURES | ADDED}
    copied = {name: value.clone() for name, value in known.items() if value is not None}
    return replace(features, times=features.times.clone(), **copied)
