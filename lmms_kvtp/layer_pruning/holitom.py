"""HoliTom, second stage: the vision tokens that are dropped are averaged into the most similar of those that stay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape, pairs_flops
from lmms_kvtp.layer_pruning.base import Stage
from lmms_kvtp.layer_pruning.parts.attention import LastPositionPruner
from lmms_kvtp.types import VISION

PAIRS_AT_ONCE = 2**24
"""Pairs of tokens whose similarities stand in memory together."""


@dataclass(frozen=True)
class HoliTomLayers(LastPositionPruner):
    """Rank vision tokens as FastV does, and average each dropped one into the most similar token that stays.

    Likeness is the cosine of hidden states that enter `layer`. The dropped tokens of a host come one after another, in
    the order of the prompt: each time the host becomes the mean of itself and the next. Kept tokens keep their
    positions; newlines and text stay as they are.

    Source: HoliTom (arXiv 2505.21334), its merging inside the language model, written from a description of the
    release, which counts newlines among the tokens; a count that rounds to 0 leaves one token here.
    """

    paper: ClassVar[str] = "HoliTom, arXiv 2505.21334"

    layer: int = 18

    def stages(self) -> tuple[Stage, ...]:
        """List the one stage."""
        return (Stage(self.layer, reads=self.layer - 1, select=self.select, merge=average_into_most_similar),)

    def flops(self, shape: LLMShape, layer_lengths: Sequence[int], role: Int[Tensor, " L"]) -> int:
        """Count what ranks, and pairs of dropped and kept tokens."""
        entered = int((role == VISION).sum())
        [(_, kept)] = self.kept(entered)
        return super().flops(shape, layer_lengths, role) + pairs_flops(entered - kept, kept, shape.hidden)


def average_into_most_similar(
    hidden: Float[Tensor, "K D"], hosts: Bool[Tensor, " K"], dropped: Bool[Tensor, " K"]
) -> Float[Tensor, "K D"]:
    """Average dropped rows into the hosts of highest cosine, one after another: each halves what came before it."""
    rows, into = hidden[dropped].float(), torch.nonzero(hosts).flatten()
    unit = F.normalize(hidden[hosts].float(), dim=1)
    parts = torch.split(F.normalize(rows, dim=1), max(1, PAIRS_AT_ONCE // len(into)))
    nearest = torch.cat([(part @ unit.T).argmax(dim=1) for part in parts])  # [dropped]
    sizes = torch.bincount(nearest, minlength=len(into))
    order = nearest.argsort(stable=True)
    after = sizes.cumsum(0).repeat_interleave(sizes) - torch.arange(len(order), device=order.device)  # 1: the last one
    halved = rows[order] * torch.exp2(-after.float())[:, None]
    sums = torch.zeros_like(unit).index_add_(0, nearest[order], halved)
    merged = hidden[hosts].float() * torch.exp2(-sizes.float())[:, None] + sums
    return hidden.index_copy(0, into, merged.to(hidden.dtype))
