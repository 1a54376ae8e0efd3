"""Block averages: the control that keeps everything, coarsely."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.groups import DROPPED, merge
from lmms_kvtp.pruners.parts.packing import check
from lmms_kvtp.pruners.parts.spread import blocks
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class Pool(TokenPruner):
    """Cuts a frame into as many blocks as its budget, with the proportions of the frame, and averages each.

    Where the budget is not a product of rows and columns, rows of blocks differ by one block. A frame without budget
    loses its tokens.
    """

    conserves_mass: ClassVar[bool] = True

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Average frame t down to `budgets[t]` blocks."""
        check(tokens, budgets)
        cuts = {budget: blocks(budget, *tokens.grid) for budget in set(budgets.tolist())}
        owner = torch.stack([cuts[budget] for budget in budgets.tolist()])
        owner[budgets == 0] = DROPPED
        return merge(tokens, owner, budgets)
