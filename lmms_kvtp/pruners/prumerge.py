"""PruMerge as KVTP uses it: salient tokens, each enriched with its nearest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner, check, chunks, pack, read, refuse_nan, top
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class PruMerge(TokenPruner):
    """Keeps the tokens of highest attention and adds to each its neighbours, weighted by their attention.

    Neighbours are the tokens, kept or not, whose keys have the highest cosine with that of the kept one. Nothing is
    normalised, as published, so even a frame that keeps all of its tokens changes.

    Source: LLaVA-PruMerge (arXiv 2403.15388) at a fixed ratio, with the pooling head's attention and input in place of
    the class token's, and without the extra token that sums up the dropped ones: the form of KVTP (arXiv 2503.10742).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"probe_attention", "keys"})
    identity_at_full: ClassVar[bool] = False
    paper: ClassVar[str] = "LLaVA-PruMerge, arXiv 2403.15388"

    neighbours: int = 32
    """Tokens added to each kept one; a smaller frame adds all that it has."""

    def __post_init__(self) -> None:
        """Refuse a negative number of neighbours."""
        if self.neighbours < 0:
            raise ValueError(f"neighbours={self.neighbours} must be >= 0")

    def prune(
        self,
        tokens: FrameTokens,
        features: FrameFeatures,
        budgets: Int[Tensor, " T"],
        relevance: Float[Tensor, " T"] | None = None,
    ) -> PackedTokens:
        """Keep the `budgets[t]` tokens of highest attention of frame t, in raster order."""
        check(tokens, budgets)
        attention, keys = read(features, "probe_attention", tokens).float(), read(features, "keys", tokens)
        packed = pack(tokens, tokens.embeds, top(attention, budgets))
        ends = [0, *budgets.cumsum(0).tolist()]
        for part in chunks(tokens.num_frames):
            kept = slice(ends[part.start], ends[part.stop])
            enriched = self._enrich(
                tokens.embeds[part], attention[part], keys[part], packed.frame[kept] - part.start, packed.patch[kept]
            )
            packed.embeds[kept] = enriched.to(packed.embeds.dtype)
        return packed

    def _enrich(
        self,
        embeds: Float[Tensor, "F N D"],
        attention: Float[Tensor, "F N"],
        keys: Float[Tensor, "F N C"],
        frame: Int[Tensor, " K"],
        patch: Int[Tensor, " K"],
    ) -> Float[Tensor, "K D"]:
        unit = F.normalize(keys.float(), dim=-1)
        cosines = (unit @ unit.transpose(1, 2))[frame, patch]  # [K, N]
        refuse_nan(cosines, "keys")
        cosines.scatter_(1, patch[:, None], -torch.inf)  # a token is not its own neighbour
        capacity = keys.shape[1]
        near = cosines.topk(min(self.neighbours, capacity - 1), dim=1).indices
        members = torch.cat([patch[:, None], near], dim=1) + frame[:, None] * capacity
        weights = torch.cat([attention.new_ones(len(near), 1), attention[frame[:, None], near]], dim=1)
        rows = embeds.flatten(0, 1).float()
        return F.embedding_bag(members, rows, mode="sum", per_sample_weights=weights)
