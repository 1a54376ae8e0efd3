"""PruMerge+: salient tokens and evenly spaced ones, each enriched with its nearest neighbours."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.device import send
from lmms_kvtp.pruners.parts.groups import EnrichingPruner, enrich
from lmms_kvtp.pruners.parts.packing import check, chunks, places, read, refuse_nan
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class PruMergePlus(EnrichingPruner):
    """Keeps the tokens of highest attention and about 3.5 evenly spaced ones for each; all take up their neighbours.

    With k salient tokens of N, every int(int(N / k) / 3)-th patch from the first on stays, too, if it is not salient.
    The release takes k from the outliers of attention; here it is the largest k that fits the budget, and what is left
    of the budget goes to the next most attended tokens. Neighbours are added as in PruMerge.

    Source: LLaVA-PruMerge (arXiv 2403.15388), the branch that its release runs at inference, with the pooling head's
    attention and input in place of the class token's.
    """

    extra: bool = False
    """Whether one token of a frame's budget is the release's last: the sum of all others, weighted by attention. It
    stands at the last patch that is not kept."""

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep `budgets[t]` tokens of frame t, in raster order."""
        check(tokens, budgets)
        attention, keys = read(features, "probe_attention", tokens).float(), read(features, "keys", tokens)
        refuse_nan(attention, "attention")
        wanted = send(budgets, attention.device)
        summed = (wanted > 0) & (wanted < tokens.capacity) & self.extra
        keep = torch.cat([spread(attention[part], (wanted - summed.long())[part]) for part in chunks(attention)])
        if not self.extra:
            return enrich(tokens, keep, budgets, attention, keys, self.neighbours)
        cells = torch.arange(tokens.capacity, device=keep.device)
        last = cells.masked_fill(keep, -1).amax(dim=1)  # [T]
        one = (cells == last[:, None]) & summed[:, None]
        packed = enrich(tokens, keep | one, budgets, attention, keys, self.neighbours)
        weights = (attention * ~keep)[..., None]
        others = torch.cat([(weights[part] * tokens.embeds[part]).sum(dim=1) for part in chunks(tokens.embeds)])
        count = int(((budgets > 0) & (budgets < tokens.capacity)).sum())
        place = places((packed.patch == last[packed.frame]) & summed[packed.frame], count).flatten()
        return replace(
            packed, embeds=packed.embeds.index_copy(0, place, others[packed.frame[place]].to(packed.embeds.dtype))
        )


def spread(attention: Float[Tensor, "F N"], budgets: Int[Tensor, " F"]) -> Bool[Tensor, "F N"]:
    """Mark `budgets[f]` tokens of each frame: the most salient ones that fit with their comb, then the next salient."""
    patches = attention.shape[1]
    rank = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    shares = [found / patches for found in range(1, patches + 1)]
    shares = [share for share in shares if int(1 / share) >= 3]
    # number of salient tokens, and distance of the comb's teeth, in the release's own rounding; first of all, no comb
    salient = send(torch.tensor([0, *(int(patches * share) for share in shares)]), rank.device)  # [k]
    apart = send(torch.tensor([patches, *(int(int(1 / share) / 3) for share in shares)]), rank.device)
    cells, order = (torch.arange(count, device=rank.device) for count in (patches, len(salient)))
    comb = (cells % apart[:, None] == 0) & (cells < max(patches - 1, 1)) & (order > 0)[:, None]  # [k, N]
    sizes = salient + (comb & (rank[:, None] >= salient[:, None])).sum(dim=2)  # [F, k]
    best = ((sizes <= budgets[:, None]) * order).argmax(dim=1)  # [F]
    keep = (rank < salient[best][:, None]) | comb[best]
    left = rank.masked_fill(keep, patches).argsort(dim=1, stable=True).argsort(dim=1)
    return keep | (left < (budgets - keep.sum(dim=1))[:, None])
