"""CDPruner: tokens that differ from each other and have to do with the question."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.device import send
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.density_peaks import gram_pairs
from lmms_kvtp.pruners.parts.packing import check, chunks, pack, read, refuse_nan
from lmms_kvtp.pruners.parts.spread import distances
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

LEAST = 1e-6
"""Part of the spread of relevance that is added to it, so that the least relevant token has its place in the order."""
NOTHING = 1e-6
"""Difference below which relevances are equal, and part of its weight that a token gains where others span it."""


@dataclass(frozen=True)
class CDPruner(TokenPruner):
    """Keeps the tokens of a determinantal point process whose kernel weighs likeness by relevance to the question.

    Tokens of a frame are chosen one after another, always the one that most enlarges the determinant of the kernel
    of the chosen ones, q_i cos(i, j) q_j, where q is a patch's mean cosine with the pieces of the question's text, by
    sign `relevant`, scaled to [0, 1] over all frames. All frames take each step together.

    Source: CDPruner (arXiv 2506.10967), section 3, on each frame, as released; where the release's roots become NaN,
    with more tokens than the features have dimensions, the earlier go first. The steps are those of Chen et al. (arXiv
    1709.05135), which take no determinant.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"patch_text", "text"})
    query_aware: ClassVar[bool] = True
    paper: ClassVar[str] = "CDPruner, arXiv 2506.10967"

    relevant: Literal["similar", "dissimilar"] = "dissimilar"
    """dissimilar: patches unlike the question weigh most, as in the release, for patches of CLIP's last layers resemble
    a text least where it applies. similar: as the paper says."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t; ValueError where the question's text is missing, or something is NaN."""
        check(tokens, budgets)
        patches, text = read(features, "patch_text", tokens), read(features, "text", tokens)
        weights = self._weights(torch.cat([_alike(patches[part], text) for part in chunks(patches)]))
        alike = distances(tokens.embeds).neg_().add_(1)
        return pack(tokens, tokens.embeds, diverse(alike, weights.to(alike.device), budgets), int(budgets.sum()))

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count pairs of tokens of a frame, patches by q pieces of text, and steps: T N (2 N D + 2 q E + B (B - 1)).

        B is the largest budget; step s reads the s rows of the factor that are known.
        """
        frames, capacity, width = tokens.embeds.shape
        pieces, joint = read(features, "text", tokens).shape
        steps = int(budgets.max())
        compared = pairs_flops(1, gram_pairs(capacity), width) + pairs_flops(capacity, pieces, joint)
        return frames * (compared + capacity * steps * (steps - 1))

    def _weights(self, cosines: Float[Tensor, "T N"]) -> Float[Tensor, "T N"]:
        refuse_nan(cosines, "similarities of patches and text")
        relevance = cosines if self.relevant == "similar" else -cosines
        low, high = relevance.min(), relevance.max()
        return torch.where(high - low > NOTHING, (relevance - low + LEAST) / (high - low), 1.0)


def _alike(patches: Float[Tensor, "F N E"], text: Float[Tensor, "q E"]) -> Float[Tensor, "F N"]:
    """Average the cosine of each patch with the pieces of the text."""
    unit = F.normalize(text.to(patches.device).float(), dim=1)
    return (F.normalize(patches.float(), dim=2) @ unit.T).mean(dim=2)


def diverse(
    alike: Float[Tensor, "T N N"], weights: Float[Tensor, "T N"], budgets: Int[Tensor, " T"]
) -> Bool[Tensor, "T N"]:
    """Mark `budgets[t]` tokens of each frame by greedy maximisation of the determinant of weights * alike * weights.

    Each step takes the token of largest gain and updates all gains by one row of a Cholesky factor, all frames
    together. Tokens that the chosen ones span gain nothing; of these the earlier go first.
    """
    frames = torch.arange(len(alike), device=alike.device)
    wanted, steps = send(budgets, alike.device), int(budgets.max())
    keep = torch.zeros_like(weights, dtype=torch.bool)
    gains = weights.square()  # [T, N]; a token is like itself
    least = NOTHING * gains
    factor = alike.new_zeros(len(alike), steps, alike.shape[1])
    for step in range(steps):
        chosen = gains.masked_fill(keep, -torch.inf).argmax(dim=1)
        keep[frames, chosen] |= step < wanted
        row = alike[frames, chosen] * weights[frames, chosen, None] * weights
        known = factor[:, :step]  # [T, step, N]
        row = row - (known[frames, :, chosen][:, None] @ known)[:, 0]
        gain = gains[frames, chosen][:, None]
        factor[:, step] = torch.where(gain > 0, row * gain.rsqrt(), 0.0)
        gains = gains - factor[:, step].square()
        gains = torch.where(gains > least, gains, 0.0)
    return keep
