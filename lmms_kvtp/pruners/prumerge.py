"""PruMerge as KVTP uses it: salient tokens, each enriched with its nearest neighbours."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.groups import enrich
from lmms_kvtp.pruners.parts.packing import check, read, top
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
        """Refuse settings that mean nothing."""
        if self.neighbours < 0:
            raise ValueError(f"neighbours={self.neighbours} must be >= 0")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t, in raster order."""
        check(tokens, budgets)
        attention, keys = read(features, "probe_attention", tokens).float(), read(features, "keys", tokens)
        return enrich(tokens, top(attention, budgets), attention, keys, self.neighbours)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count all pairs of keys of a frame: 2 T N^2 C. Sums of neighbours are no matrix product, and left out."""
        frames, capacity, width = read(features, "keys", tokens).shape
        return frames * pairs_flops(capacity, capacity, width)
