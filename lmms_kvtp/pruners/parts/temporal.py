"""How tokens change from frame to frame at the same patch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.pruners.base import chunks


def change(embeds: Float[Tensor, "T N D"], reference: Int[Tensor, " T"]) -> Float[Tensor, "T N"]:
    """1 - cosine between each token and the one at the same patch of its frame's reference frame."""
    where = reference.to(embeds.device)
    cosines = [F.cosine_similarity(embeds[part].float(), embeds[where[part]].float(), dim=2) for part in chunks(embeds)]
    return 1 - torch.cat(cosines)
