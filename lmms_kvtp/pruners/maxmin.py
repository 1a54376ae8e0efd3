"""Diverse tokens by greedy max-min selection."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check, chunks, pack, refuse_nan
from lmms_kvtp.pruners.parts.spread import farthest
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

PAIRS_HELD = 2**30
"""Pairs of tokens whose distances stand in memory together, 4 GiB; of more, each step computes its own again."""


@dataclass(frozen=True)
class MaxMin(TokenPruner):
    """Keeps, one after another, the token of the video that is farthest from all kept so far, unchanged.

    Distance is 1 - cosine. The first token is the one farthest from its nearest neighbour. Only the total of the
    budgets counts.

    Source: DivPrune (arXiv 2503.02175) as released, which takes all visual tokens together.
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    paper: ClassVar[str] = "DivPrune, arXiv 2503.02175"

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many mutually distant tokens as all budgets together."""
        check(tokens, budgets)
        units = F.normalize(tokens.embeds.flatten(0, 1).float(), dim=1)
        refuse_nan(units.sum(dim=1).reshape(tokens.embeds.shape[:2]), "tokens")
        held = units.new_empty(len(units), len(units)) if len(units) ** 2 <= PAIRS_HELD else None
        nearest = torch.full_like(units[:, 0], torch.inf)
        for part in chunks(tokens.embeds):
            start, stop = part.start * tokens.capacity, part.stop * tokens.capacity
            apart = (units[start:stop] @ units[start:].T).neg_().add_(1)
            if held is not None:
                held[start:stop, start:], held[start:, start:stop] = apart, apart.T
            apart.fill_diagonal_(torch.inf)
            nearest[start:stop] = torch.minimum(nearest[start:stop], apart.amin(dim=1))
            nearest[stop:] = torch.minimum(nearest[stop:], apart[:, stop - start :].amin(dim=0))

        def row(chosen: Int[Tensor, " 1"]) -> Float[Tensor, "1 M"]:
            return held[chosen] if held is not None else 1 - units[chosen] @ units.T

        keep = torch.zeros_like(nearest, dtype=torch.bool)
        total = int(budgets.sum())
        keep.index_fill_(0, farthest(nearest[None], row, total)[0], True)
        return pack(tokens, tokens.embeds, keep.reshape(tokens.embeds.shape[:2]), total)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count each pair of tokens of the video once, a block of frames whole, and what no memory holds once more."""
        size, width = tokens.num_frames * tokens.capacity, tokens.embeds.shape[2]
        rows = [(part.start * tokens.capacity, part.stop * tokens.capacity) for part in chunks(tokens.embeds)]
        pairs = sum((stop - start) * (size - start) for start, stop in rows)
        again = 0 if size**2 <= PAIRS_HELD else int(budgets.sum()) * size
        return pairs_flops(1, pairs + again, width)
