"""FlashVID with the counts of its released code, which are not its budgets; for reproduction."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.pruners.parts.trees import TreePruner


@dataclass(frozen=True)
class FlashVidRelease(TreePruner):
    """Keeps what FlashVID's release does: a few clusters more than the budgets, and some tokens twice.

    A frame's share of clusters is rounded up. Where no candidate of a selection has a positive weight, a selected
    token is taken again; in a scene of one frame selected tokens may stand for a cluster, too.

    Source: the released code of FlashVID (arXiv 2602.08024), the part before the language model.
    """

    exact: ClassVar[bool] = False
    identity_at_full: ClassVar[bool] = False
    twice: ClassVar[bool] = True
    paper: ClassVar[str] = "FlashVID, arXiv 2602.08024 (released code)"

    def clusters(self, trees: Int[Tensor, " L"], count: int) -> Int[Tensor, " L"]:
        """Round each frame's share up."""
        share = count / int(trees.sum())
        return trees if share >= 1 else torch.tensor([ceil(each * share) for each in trees.tolist()])
