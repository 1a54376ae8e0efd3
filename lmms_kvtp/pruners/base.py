"""The interface of token pruners; a new method is one file beside this one."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


class TokenPruner(ABC):
    """Reduces the vision tokens of each frame to that frame's budget."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `FrameFeatures` that this pruner reads; the encoder computes only these."""
    scope: ClassVar[Literal["frame", "video"]] = "frame"
    """frame: every frame keeps exactly its budget. video: only the total is exact, budgets are weights."""
    identity_at_full: ClassVar[bool] = True
    """Budgets equal to the capacity leave every token as it was."""
    conserves_mass: ClassVar[bool] = False
    """sum(size * embeds) of a frame is that of its original tokens: nothing is dropped, only merged."""
    query_aware: ClassVar[bool] = False
    """Reads the question itself, beyond the budgets that an allocator made from it."""
    paper: ClassVar[str] = ""
    """Where the method comes from: a name and an arXiv id."""

    @abstractmethod
    def prune(
        self,
        tokens: FrameTokens,
        features: FrameFeatures,
        budgets: Int[Tensor, " T"],
        relevance: Float[Tensor, " T"] | None = None,
    ) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t.

        Args:
            tokens: never changed.
            features: with the fields named in `needs`.
            budgets: integers in [0, N], on the CPU.
            relevance: the scores that the budgets came from, for pruners that weight tokens by them.
        """


class ScorePruner(TokenPruner):
    """Keeps the highest-scoring tokens of each frame, unchanged."""

    @abstractmethod
    def score(self, tokens: FrameTokens, features: FrameFeatures) -> Float[Tensor, "T N"]:
        """Higher is more worth keeping."""

    @final
    def prune(
        self,
        tokens: FrameTokens,
        features: FrameFeatures,
        budgets: Int[Tensor, " T"],
        relevance: Float[Tensor, " T"] | None = None,
    ) -> PackedTokens:
        """Keep the top `budgets[t]` of each frame; ties go to the earlier patch."""
        return pack(tokens, tokens.embeds, top(self.score(tokens, features), budgets))


def top(scores: Float[Tensor, "T N"], budgets: Int[Tensor, " T"]) -> Bool[Tensor, "T N"]:
    """Mark the `budgets[t]` highest scores of row t; ties go to the earlier column.

    Raises:
        ValueError: a score is NaN; such a row has no order.
    """
    if torch.isnan(scores).any():
        frames = torch.nonzero(torch.isnan(scores).any(dim=1)).flatten().tolist()
        raise ValueError(f"scores of frames {frames[:5]} hold NaN; look at the features and their dtype")
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks < budgets.to(scores.device)[:, None]


def pack(
    tokens: FrameTokens,
    embeds: Float[Tensor, "T N D"],
    keep: Bool[Tensor, "T N"],
    size: Float[Tensor, "T N"] | None = None,
) -> PackedTokens:
    """Gather the rows of `embeds` that `keep` marks, in raster order; `size` defaults to one original each."""
    frame, patch = torch.nonzero(keep, as_tuple=True)
    ones = torch.ones(len(frame), device=embeds.device)
    return PackedTokens(
        embeds=embeds[frame, patch],
        frame=frame,
        patch=patch,
        size=ones if size is None else size[frame, patch],
        grid=tokens.grid,
        num_frames=tokens.num_frames,
    )
