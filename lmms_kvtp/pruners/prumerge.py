"""PruMerge as KVTP uses it: salient tokens, each enriched with its nearest neighbours."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.pruners.parts.groups import EnrichingPruner, enrich
from lmms_kvtp.pruners.parts.packing import check, read, top
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class PruMerge(EnrichingPruner):
    """Keeps the tokens of highest attention and adds to each its neighbours, weighted by their attention.

    Neighbours are the tokens, kept or not, whose keys have the highest cosine with that of the kept one. Nothing is
    normalised, as published, so even a frame that keeps all of its tokens changes.

    Source: LLaVA-PruMerge (arXiv 2403.15388) at a fixed ratio, with the pooling head's attention and input in place of
    the class token's, and without the extra token that sums up the dropped ones: the form of KVTP (arXiv 2503.10742).
    """

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t, in raster order."""
        check(tokens, budgets)
        attention, keys = read(features, "probe_attention", tokens).float(), read(features, "keys", tokens)
        return enrich(tokens, top(attention, budgets), budgets, attention, keys, self.neighbours)
