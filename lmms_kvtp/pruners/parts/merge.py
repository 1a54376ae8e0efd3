"""Averages of tokens that stand at one of them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.pruners.base import chunks
from lmms_kvtp.pruners.parts.bags import group, group_sums
from lmms_kvtp.types import FrameTokens, PackedTokens

DROPPED = -1
"""The owner of a token that goes into no average."""


def merge(tokens: FrameTokens, owner: Int[Tensor, "T N"]) -> PackedTokens:
    """Average the tokens of each frame that share an owner.

    Args:
        tokens: never changed.
        owner: the patch at which each token's average stands, which owns itself; or DROPPED.
    """
    frame, patch = torch.nonzero(owner == torch.arange(owner.shape[1], device=owner.device), as_tuple=True)
    embeds, size = tokens.embeds.new_empty(len(frame), tokens.embeds.shape[2]), torch.zeros(len(frame)).to(frame.device)
    start = 0
    for part in chunks(owner):
        rows, sizes = means(tokens.embeds[part], owner[part])
        embeds[start : start + len(rows)], size[start : start + len(rows)] = rows.to(embeds.dtype), sizes
        start += len(rows)
    return PackedTokens(embeds, frame, patch, size, tokens.grid, tokens.num_frames)


def merge_video(
    tokens: FrameTokens, owner: Int[Tensor, " M"], weights: Float[Tensor, " M"] | None = None
) -> PackedTokens:
    """Average tokens over all frames, or sum them by weights.

    Args:
        tokens: never changed.
        owner: as in `merge`, with tokens counted through the video, frame by frame.
        weights: of each token in the sum that replaces the average.
    """
    cells, width = tokens.num_frames * tokens.capacity, tokens.embeds.shape[2]
    rows, size = means(tokens.embeds.reshape(1, cells, width), owner[None], None if weights is None else weights[None])
    where = torch.nonzero(owner == torch.arange(cells, device=owner.device)).flatten()
    frame, patch = where // tokens.capacity, where % tokens.capacity
    return PackedTokens(rows.to(tokens.embeds.dtype), frame, patch, size, tokens.grid, tokens.num_frames)


def means(
    embeds: Float[Tensor, "F N D"], owner: Int[Tensor, "F N"], weights: Float[Tensor, "F N"] | None = None
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """The average, or weighted sum, of each owner's tokens, owners in order, in float32; and how many tokens it has."""
    nobody = owner.shape[1]
    groups = group(
        owner.masked_fill(owner == DROPPED, nobody), nobody + 1, torch.arange(len(owner), device=owner.device)
    )
    owned = groups.filled & (torch.arange(nobody + 1, device=owner.device) < nobody)
    sizes = groups.sizes[owned].float()
    sums = group_sums(embeds, groups, weights)[owned[groups.filled]]
    return sums if weights is not None else sums.div_(sizes[:, None]), sizes
