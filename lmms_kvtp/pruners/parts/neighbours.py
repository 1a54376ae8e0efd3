"""The enrichment of PruMerge: kept tokens take up their nearest neighbours."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.pruners.base import chunks, pack, refuse
from lmms_kvtp.types import FrameTokens, PackedTokens


def enrich(
    tokens: FrameTokens,
    keep: Bool[Tensor, "T N"],
    attention: Float[Tensor, "T N"],
    keys: Float[Tensor, "T N C"],
    neighbours: int,
) -> PackedTokens:
    """Add to each kept token the `neighbours` tokens of most similar keys, weighted by their attention.

    Raises:
        ValueError: keys hold NaN.
    """
    packed = pack(tokens, tokens.embeds, keep)
    ends = [0, *packed.counts().cumsum(0).tolist()]
    broken = torch.zeros_like(keep)
    for part in chunks(tokens.embeds):
        kept = slice(ends[part.start], ends[part.stop])
        frame, patch = packed.frame[kept] - part.start, packed.patch[kept]
        cosines = _cosines(keys[part], frame, patch)
        broken[packed.frame[kept], patch] = torch.isnan(cosines).any(dim=1)
        rows = _enriched(tokens.embeds[part], attention[part], cosines, frame, patch, neighbours)
        packed.embeds[kept] = rows.to(packed.embeds.dtype)
    refuse(broken, "keys")  # once, behind the loop: a GPU is waited for
    return packed


def _cosines(keys: Float[Tensor, "F N C"], frame: Int[Tensor, " K"], patch: Int[Tensor, " K"]) -> Float[Tensor, "K N"]:
    unit = F.normalize(keys.float(), dim=-1)
    return (unit @ unit.transpose(1, 2))[frame, patch]


def _enriched(
    embeds: Float[Tensor, "F N D"],
    attention: Float[Tensor, "F N"],
    cosines: Float[Tensor, "K N"],
    frame: Int[Tensor, " K"],
    patch: Int[Tensor, " K"],
    neighbours: int,
) -> Float[Tensor, "K D"]:
    cosines.scatter_(1, patch[:, None], -torch.inf)  # a token is not its own neighbour
    capacity = embeds.shape[1]
    near = cosines.topk(min(neighbours, capacity - 1), dim=1).indices
    members = torch.cat([patch[:, None], near], dim=1) + frame[:, None] * capacity
    weights = torch.cat([attention.new_ones(len(near), 1), attention[frame[:, None], near]], dim=1)
    rows = embeds.flatten(0, 1).float()
    return F.embedding_bag(members, rows, mode="sum", per_sample_weights=weights)
