"""VisionZip: dominant tokens by attention, and contextual ones that merge the rest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.device import send
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.groups import DROPPED, merge
from lmms_kvtp.pruners.parts.packing import check, chunks, read, refuse, top
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class VisionZip(TokenPruner):
    """Keeps the tokens that receive most attention, and adds the mean of the others near it to each of a few anchors.

    Anchors are evenly spaced among the tokens that are not dominant; nearness is the cosine of keys averaged over
    heads. An anchor becomes the sum of itself and the mean of the tokens that go to it. A budget too small for an
    anchor drops the rest.

    Source: VisionZip (arXiv 2412.04467) as released, after the language model's projector and pooling instead of before
    them, so that budgets count what the language model sees; tokens stand in raster order.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"column_attention", "layer_keys"})
    paper: ClassVar[str] = "VisionZip, arXiv 2412.04467"

    contextual: float = 10 / 64
    """Part of the budget, rounded to the nearest token, that goes to anchors; the paper's 64 tokens have 10."""

    def __post_init__(self) -> None:
        """Refuse a part outside [0, 1]."""
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual={self.contextual} is outside [0, 1]; it is a part of the budget")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t, dominant and contextual."""
        check(tokens, budgets)
        attention, keys = read(features, "column_attention", tokens), _metric(features, tokens)
        refuse(~torch.isfinite(keys.sum(dim=2, dtype=torch.float32)), "keys")
        num_anchors = (budgets * self.contextual + 0.5).long()
        dominant = top(attention.float(), budgets - num_anchors)
        anchors = _every_step(~dominant, send(num_anchors, dominant.device))
        owner = torch.cat([_assign(keys[part], dominant[part], anchors[part]) for part in chunks(keys)])
        return merge(tokens, owner, budgets, _factors(owner))

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count all pairs of keys of a frame: 2 T N^2 C."""
        frames, capacity, width = _metric(features, tokens).shape
        return frames * pairs_flops(capacity, capacity, width)


def _metric(features: FrameFeatures, tokens: FrameTokens) -> Float[Tensor, "T N C"]:
    """Take the layer's keys, or those that a caller gives in their place."""
    given = features.layer_keys is None and features.keys is not None
    return read(features, "keys" if given else "layer_keys", tokens)


def _factors(owner: Int[Tensor, "T N"]) -> Float[Tensor, "T N"]:
    """Weigh an anchor, or a dominant token, by 1, and the n others that go to it by 1 / n."""
    own = owner == torch.arange(owner.shape[1], device=owner.device)
    into = owner.clamp_min(0)  # what is dropped goes into no sum
    others = ((owner != DROPPED) & ~own).float()
    return torch.where(own, 1.0, 1 / torch.zeros_like(others).scatter_add_(1, into, others).gather(1, into))


def _every_step(free: Bool[Tensor, "T N"], count: Int[Tensor, " T"]) -> Bool[Tensor, "T N"]:
    """Mark the first, and every further step-th, of the free tokens of a frame, `count[t]` in all."""
    step = (free.sum(dim=1) // count.clamp_min(1)).clamp_min(1)[:, None]
    rank = free.cumsum(dim=1) - 1
    return free & (rank % step == 0) & (rank // step < count[:, None])


def _assign(
    keys: Float[Tensor, "F N C"], dominant: Bool[Tensor, "F N"], anchors: Bool[Tensor, "F N"]
) -> Int[Tensor, "F N"]:
    """Let dominant tokens and anchors own themselves, and give others to the nearest anchor, if there is one."""
    unit = F.normalize(keys.float(), dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    nearest = cosines.masked_fill(~anchors[:, None], -torch.inf).argmax(dim=2)
    nearest = torch.where(anchors.any(dim=1, keepdim=True), nearest, DROPPED)
    return torch.where(dominant | anchors, torch.arange(keys.shape[1], device=keys.device), nearest)
