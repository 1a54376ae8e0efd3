"""One round of bipartite soft matching, the step that ToMe repeats."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Hosts = Literal["odd", "even"]


def match(
    metric: Float[Tensor, "F n C"], remove: Int[Tensor, " F"], hosts: Hosts
) -> tuple[Int[Tensor, "F n"], Bool[Tensor, "F n"]]:
    """Merge `remove[f]` tokens of each frame into the tokens that they resemble most.

    Tokens at alternate positions are hosts; each of the others looks for the host of highest cosine, and the most
    similar of them are absorbed. Hosts `odd`: the paper's round, after which the tokens that found no host stand
    first, most similar first, and the hosts behind them. Hosts `even`: the round of KVTP's release, after which the
    hosts stand first and the others follow in their order.

    Source: ToMe (arXiv 2210.09461), section 3.

    Args:
        metric: what similarity is measured on; not normalised.
        remove: at most the number of tokens that are not hosts, and 0 where there is no host.
        hosts: the positions, counted from 0, that absorb.

    Returns:
        The position of each token in the list after the round (an absorbed token has its host's), and which tokens
        were absorbed.

    Raises:
        ValueError: a similarity is NaN.
    """
    unit = F.normalize(metric.float(), dim=-1)
    own, other = (1, 0) if hosts == "odd" else (0, 1)
    scores = unit[:, other::2] @ unit[:, own::2].transpose(1, 2)
    if torch.isnan(scores).any():
        raise ValueError("similarities of tokens hold NaN; look at the keys and their dtype")
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
