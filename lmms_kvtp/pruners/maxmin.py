"""Diverse tokens by greedy max-min selection."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner, check, chunks, pack, refuse_nan
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class MaxMin(TokenPruner):
    """Keeps, one after another, the token that is farthest from all tokens kept so far, unchanged.

    Distance is 1 - cosine. The first token is the one farthest from its nearest neighbour. All frames take each step
    together, so the number of steps is the largest budget, whatever the number of frames.

    Source: DivPrune (arXiv 2503.02175), section 3, on each frame.
    """

    paper: ClassVar[str] = "DivPrune, arXiv 2503.02175"

    def prune(
        self,
        tokens: FrameTokens,
        features: FrameFeatures,
        budgets: Int[Tensor, " T"],
        relevance: Float[Tensor, " T"] | None = None,
    ) -> PackedTokens:
        """Keep `budgets[t]` mutually distant tokens of frame t."""
        check(tokens, budgets)
        distances = torch.cat([_distances(tokens.embeds[part]) for part in chunks(tokens.num_frames)])
        refuse_nan(distances, "tokens")
        return pack(tokens, tokens.embeds, _farthest(distances, budgets))


def _distances(embeds: Float[Tensor, "F N D"]) -> Float[Tensor, "F N N"]:
    unit = F.normalize(embeds.float(), dim=-1)
    return 1 - unit @ unit.transpose(1, 2)


def _farthest(distances: Float[Tensor, "T N N"], budgets: Int[Tensor, " T"]) -> Bool[Tensor, "T N"]:
    frames = torch.arange(len(distances), device=distances.device)
    keep = torch.zeros(distances.shape[:2], dtype=torch.bool, device=distances.device)
    wanted = budgets.to(distances.device)
    itself = torch.eye(distances.shape[1], dtype=torch.bool, device=distances.device)
    nearest = distances.masked_fill(itself, torch.inf).amin(dim=2)  # to any other token, until one is kept
    for step in range(int(budgets.max())):
        chosen = nearest.masked_fill(keep, -torch.inf).argmax(dim=1)
        keep[frames, chosen] |= step < wanted
        to_chosen = distances[frames, chosen]
        nearest = to_chosen if step == 0 else torch.minimum(nearest, to_chosen)
    return keep
