"""No pruning inside a frame."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.packing import check, pack
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class Unpruned(TokenPruner):
    """Keeps frames whole or drops them; with all frames whole this is the unpruned model."""

    conserves_mass: ClassVar[bool] = True

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep the frames whose budget is all of their tokens; ValueError where one is between 0 and that."""
        check(tokens, budgets)
        partial = torch.nonzero((budgets > 0) & (budgets < tokens.capacity)).flatten().tolist()
        if partial:
            raise ValueError(
                f"pruner=none keeps whole frames, but the budget of frame {partial[0]} is "
                f"{int(budgets[partial[0]])} of {tokens.capacity} tokens; choose a pruner, such as grid or prumerge, "
                "or keep_ratio=1"
            )
        keep = (budgets > 0)[:, None].expand(-1, tokens.capacity)
        return pack(tokens, tokens.embeds, keep, int(budgets.sum()))
