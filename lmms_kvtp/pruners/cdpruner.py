"""CDPruner: tokens that differ from each other and have to do with the question."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check, chunks, pack, read, refuse_nan
from lmms_kvtp.pruners.parts.spread import distances
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

LEAST = 3e-3
"""Weight of the token that has least to do with the question, so that it still has its place in the order."""


NOTHING = 1e-6
"""Difference below which cosines are equal, and gain below which a token is spanned by those chosen before."""


@dataclass(frozen=True)
class CDPruner(TokenPruner):
    """Keeps the tokens of a determinantal point process whose kernel weighs likeness by relevance to the question.

    Tokens of a frame are chosen one after another, always the one that most enlarges the determinant of the kernel
    of the chosen ones, q_i cos(i, j) q_j, where q is a patch's cosine with the question's text, scaled to [0, 1] in its
    frame. The best piece of a long question counts. All frames take each step together.

    Source: CDPruner (arXiv 2506.10967), section 3, on each frame; the steps are those of Chen et al. (arXiv
    1709.05135), which take no determinant.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"patch_text", "text"})
    query_aware: ClassVar[bool] = True
    paper: ClassVar[str] = "CDPruner, arXiv 2506.10967"

    relevant: Literal["similar", "dissimilar"] = "similar"
    """similar: patches like the question weigh most, as the paper says. dissimilar: the release's sign, for patches of
    CLIP's last layers, which resemble a text least where it applies."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t.

        Raises:
            ValueError: the question's text is missing, or something is NaN.
        """
        check(tokens, budgets)
        patches, text = read(features, "patch_text", tokens), read(features, "text", tokens)
        weights = torch.cat([self._weights(patches[part], text) for part in chunks(patches)])
        alike = distances(tokens.embeds).neg_().add_(1)
        return pack(tokens, tokens.embeds, diverse(alike, weights.to(alike.device), budgets))

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count pairs of tokens of a frame, patches by q pieces of text, and steps: T N (2 N D + 2 q E + B (B - 1)).

        B is the largest budget; step s reads the s rows of the factor that are known.
        """
        frames, capacity, width = tokens.embeds.shape
        pieces, joint = read(features, "text", tokens).shape
        steps = int(budgets.max())
        compared = pairs_flops(capacity, capacity, width) + pairs_flops(capacity, pieces, joint)
        return frames * (compared + capacity * steps * (steps - 1))

    def _weights(self, patches: Float[Tensor, "F N E"], text: Float[Tensor, "q E"]) -> Float[Tensor, "F N"]:
        unit = F.normalize(text.to(patches.device).float(), dim=1)
        cosines = (F.normalize(patches.float(), dim=2) @ unit.T).amax(dim=2)
        refuse_nan(cosines, "similarities of patches and text")
        cosines = cosines if self.relevant == "similar" else -cosines
        low, high = cosines.amin(dim=1, keepdim=True), cosines.amax(dim=1, keepdim=True)
        spread = high - low
        return torch.where(spread > NOTHING, (cosines - low) / spread, 1.0).clamp_min(LEAST)


def diverse(
    alike: Float[Tensor, "T N N"], weights: Float[Tensor, "T N"], budgets: Int[Tensor, " T"]
) -> Bool[Tensor, "T N"]:
    """Mark `budgets[t]` tokens of each frame by greedy maximisation of the determinant of weights * alike * weights.

    Each step takes the token of largest gain and updates all gains by one row of a Cholesky factor, all frames
    together. Tokens that the chosen ones span gain nothing; of these the earlier go first.
    """
    frames = torch.arange(len(alike), device=alike.device)
    wanted, steps = budgets.to(alike.device), int(budgets.max())
    keep = torch.zeros_like(weights, dtype=torch.bool)
    gains = weights.square()  # [T, N]; a token is like itself
    factor = alike.new_zeros(len(alike), steps, alike.shape[1])
    for step in range(steps):
        chosen = gains.masked_fill(keep, -torch.inf).argmax(dim=1)
        keep[frames, chosen] |= step < wanted
        row = alike[frames, chosen] * weights[frames, chosen, None] * weights
        known = factor[:, :step]  # [T, step, N]
        row = row - (known[frames, :, chosen][:, None] @ known)[:, 0]
        gain = gains[frames, chosen][:, None]
        factor[:, step] = torch.where(gain > 0, row * gain.clamp_min(NOTHING).rsqrt(), 0.0)
        gains = gains - factor[:, step].square()
        gains = torch.where(gains > NOTHING, gains, 0.0)
    return keep
