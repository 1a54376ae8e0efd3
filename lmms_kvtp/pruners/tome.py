"""Token merging by rounds of bipartite matching."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.device import send
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.groups import DROPPED, group, group_sums, merge
from lmms_kvtp.pruners.parts.packing import check, chunks, read, refuse
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

Hosts = Literal["odd", "even"]


def match(
    metric: Float[Tensor, "F n C"], remove: Int[Tensor, " F"], hosts: Hosts
) -> tuple[Int[Tensor, "F n"], Bool[Tensor, "F n"]]:
    """Merge `remove[f]` tokens of each frame into the tokens that they resemble most.

    Tokens at alternate positions are hosts; each of the others seeks the host of highest cosine, and the most
    similar of them are absorbed. Hosts `odd`: the paper's round, after which the tokens that found no host stand
    first, most similar first, and the hosts behind them. Hosts `even`: the round of KVTP's release, after which the
    hosts stand first and the others follow in their order.

    Source: ToMe (arXiv 2210.09461), section 3.

    Args:
        metric: what similarity is measured on; not normalized.
        remove: at most the number of tokens that are not hosts, and 0 where there is no host.
        hosts: the positions, counted from 0, that absorb.

    Returns:
        The position of each token in the list after the round (an absorbed token has its host's), and which tokens
        were absorbed.
    """
    unit = F.normalize(metric.float(), dim=-1)
    own, other = (1, 0) if hosts == "odd" else (0, 1)
    scores = unit[:, other::2] @ unit[:, own::2].transpose(1, 2)
    if 0 in scores.shape:
        return torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2]), _none(metric)
    best, host = scores.max(dim=2)  # [F, others]
    rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    gone = rank < remove[:, None]
    num_others, num_hosts = scores.shape[1:]
    host_order = torch.arange(num_hosts, device=metric.device)
    slot = torch.empty(metric.shape[:2], dtype=torch.int64, device=metric.device)
    if hosts == "odd":
        first_host = num_others - remove[:, None]
        slot[:, own::2] = first_host + host_order
        slot[:, other::2] = torch.where(gone, first_host + host, rank - remove[:, None])
    else:
        slot[:, own::2] = host_order
        slot[:, other::2] = torch.where(gone, host, num_hosts - 1 + (~gone).cumsum(dim=1))
    absorbed = _none(metric)
    absorbed[:, other::2] = gone
    return slot, absorbed


def _none(metric: Float[Tensor, "F n C"]) -> Bool[Tensor, "F n"]:
    return torch.zeros(metric.shape[:2], dtype=torch.bool, device=metric.device)


@dataclass(frozen=True)
class ToMe(TokenPruner):
    """Merges the most similar tokens of a frame, at most half of them in a round, until the budget is reached.

    Each round compares the merged keys, as a vision tower's next layer would. A merge stands at the patch of the host
    that absorbed the others. A frame without budget loses its tokens.

    Source: ToMe (arXiv 2210.09461), section 3, with all rounds at one place and the pooling head's input as metric, as
    KVTP (arXiv 2503.10742) applies it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"keys"})
    conserves_mass: ClassVar[bool] = True
    paper: ClassVar[str] = "ToMe, arXiv 2210.09461"

    variant: Literal["paper", "release"] = "paper"
    """paper: means weighted by size. release: KVTP's code, where even positions absorb odd ones, means are plain and
    take the largest norm of what they merge, so that no mass is conserved."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Merge frame t down to `budgets[t]` tokens."""
        check(tokens, budgets)
        keys = read(features, "keys", tokens)
        refuse(~torch.isfinite(keys.sum(dim=2, dtype=torch.float32)), "keys")
        scale = torch.ones(tokens.embeds.shape[:2], device=tokens.embeds.device)
        parts = chunks(tokens.embeds)
        owner = torch.cat([self._merge(tokens.embeds[p], keys[p], budgets[p], scale[p]) for p in parts])
        return merge(tokens, owner, budgets, None if self.variant == "paper" else scale)

    def flops(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> int:
        """Count half of the tokens against the others in each round: 2 floor(n / 2) ceil(n / 2) C, and n halves."""
        width, total = read(features, "keys", tokens).shape[2], 0
        for budget in budgets.tolist():
            left = tokens.capacity if budget else 0
            while left > budget:
                total += 2 * (left // 2) * (left - left // 2) * width
                left -= min(left - budget, left // 2)
        return total

    def _merge(
        self,
        embeds: Float[Tensor, "F N D"],
        keys: Float[Tensor, "F N C"],
        budgets: Int[Tensor, " F"],
        scale: Float[Tensor, "F N"],
    ) -> Int[Tensor, "F N"]:
        """Find the patch at which each token's merge stands, and write each token's factor in its sum into `scale`.

        Which frames go on for another round follows from the budgets, on the host, so that no GPU is waited for.
        """
        device, patches = embeds.device, torch.arange(embeds.shape[1], device=embeds.device).repeat(len(embeds), 1)
        owner = torch.where(send(budgets, device)[:, None] > 0, patches, DROPPED)
        restored = _Restored.start(embeds, scale) if self.variant == "release" else None
        going = torch.nonzero((budgets > 0) & (budgets < embeds.shape[1])).flatten()
        frames = send(going, device)
        position = place = patches[frames]  # of each token: its merge in the list; of each merge: its patch
        metric = keys[frames]
        while len(frames):
            left = place.shape[1]
            remove = (left - budgets[going]).clamp(max=left // 2)
            slot, absorbed = match(metric, send(remove, device), "even" if restored else "odd")
            position, place = slot.gather(1, position), _follow(place, slot, absorbed)
            owner[frames] = place.gather(1, position)
            groups = group(position, left, frames)
            sums = group_sums(keys, groups, restored.key_scale if restored else None)
            if restored:
                hosts = torch.zeros_like(place).scatter_reduce(1, slot, absorbed.long(), "amax") > 0
                restored.update(frames, position, hosts, group_sums(embeds, groups, scale), sums)
            more = torch.nonzero(left - remove > budgets[going]).flatten()
            going, still, half = going[more], send(more, device), left - left // 2
            metric = sums.reshape(len(frames), left, -1)[still, :half]
            frames, position, place = frames[still], position[still], place[still, :half]
        return owner


@dataclass(frozen=True)
class _Restored:
    """Norms and factors of the release's merges: a merge gets the largest norm of its parts, and so does its key."""

    norm: Float[Tensor, "F N"]
    """Norm of the merge that each token is in."""
    scale: Float[Tensor, "F N"]
    """Factor of each token in the sum of its merge."""
    key_scale: Float[Tensor, "F N"]
    """Factor of each key in the sum of its merge's key."""

    @staticmethod
    def start(embeds: Float[Tensor, "F N D"], scale: Float[Tensor, "F N"]) -> "_Restored":
        return _Restored(embeds.float().norm(dim=2), scale, torch.ones_like(scale))

    def update(
        self,
        frames: Int[Tensor, " f"],
        position: Int[Tensor, "f N"],
        hosts: Bool[Tensor, "f n"],
        sums: Float[Tensor, "K D"],
        key_sums: Float[Tensor, "K C"],
    ) -> None:
        """Rescale the merges that absorbed something in this round."""
        norm = torch.zeros(hosts.shape, device=hosts.device).scatter_reduce(1, position, self.norm[frames], "amax")
        self.norm[frames] = norm.gather(1, position)
        for scale, rows in ((self.scale, sums), (self.key_scale, key_sums)):
            length = rows.norm(dim=1).clamp_min(1e-12).reshape(norm.shape)
            scale[frames] *= torch.where(hosts, norm / length, 1.0).gather(1, position)


def _follow(place: Int[Tensor, "f n"], slot: Int[Tensor, "f n"], absorbed: Bool[Tensor, "f n"]) -> Int[Tensor, "f n"]:
    """Move the patches of the tokens that were not absorbed to their new positions."""
    moved = place.new_zeros(len(place), place.shape[1] + 1)  # absorbed tokens write into the column that is cut off
    return moved.scatter(1, slot.masked_fill(absorbed, place.shape[1]), place)[:, :-1]
