"""DyCoke's temporal merging: whole frames at intervals, and what changed in the frames between them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lmms_kvtp.allocators.base import largest_remainder
from lmms_kvtp.device import send
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check, pack, top
from lmms_kvtp.pruners.parts.scenes import change
from lmms_kvtp.pruners.parts.spread import lattice
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class DyCoke(TokenPruner):
    """Keeps the first frame of each group of four whole, and the patches of the others that changed most.

    In a group, frame 1 is compared with frame 0, frame 3 with frame 2, and frame 2 with frame 0. As released, frame 2
    of a last group that is complete stays whole, too. What the whole frames leave of the total is shared among the
    others in proportion to their budgets. The paper's ratio follows from its pruning rate k, 0.7, and cannot be less
    than a quarter; here the rate follows from the total, and where whole frames do not fit, groups grow to 8, 16, ...
    frames by the same pattern. A video with less than one frame of tokens keeps a lattice of its first frame. The
    release loses the last frame of an odd number; here it is part of its group.

    Source: DyCoke (arXiv 2411.15024), section 3.2. Its second stage works in the decoder's cache, and is not here.
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    paper: ClassVar[str] = "DyCoke, arXiv 2411.15024"

    group: int = 4
    """Frames of a group, a power of 2."""

    def __post_init__(self) -> None:
        """Refuse a group that has no pattern."""
        if self.group < 1 or self.group & (self.group - 1):
            raise ValueError(f"group={self.group} must be a power of 2, such as 4")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many tokens as all budgets together."""
        check(tokens, budgets)
        frames, total, capacity = torch.arange(tokens.num_frames), int(budgets.sum()), tokens.capacity
        length, position = self.group, frames % self.group
        whole = position == 0
        if length == 4 and len(frames) % 4 == 0:
            whole[-2] = True
        while whole.sum() > 1 and int(whole.sum()) * capacity > total:
            length, position = 2 * length, frames % (2 * length)
            whole = position == 0
        shares = _shares(budgets, whole, total, capacity)
        scores = change(tokens.embeds, frames - (position & -position))  # its lowest bit back: 1-0, 3-2, 2-0, 6-4, 4-0
        scores[0] = send(lattice(int(shares[0]), *tokens.grid), scores.device)
        return pack(tokens, tokens.embeds, top(scores, shares), total)


def _shares(budgets: Int[Tensor, " T"], whole: Bool[Tensor, " T"], total: int, capacity: int) -> Int[Tensor, " T"]:
    """Give whole frames theirs first, and others what is left in proportion to their budgets."""
    rest = total - int(whole.sum()) * capacity
    shares = torch.zeros_like(budgets)
    if rest < 0:
        shares[0] = total
        return shares
    shares[whole] = capacity
    shares[~whole] = largest_remainder(budgets[~whole].double(), rest, capacity)
    return shares
