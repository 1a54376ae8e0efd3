"""What a SigLIP vision tower says of each patch, from one pass over the frames."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lmms_kvtp.types import GridPool


@contextmanager
def outputs_of(*modules: nn.Module) -> Iterator[dict[nn.Module, Any]]:
    """Collect the last output of each module while the `with` block runs."""
    seen: dict[nn.Module, Any] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[module] = output

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield seen


def mean_column(queries: Float[Tensor, "T P C"], keys: Float[Tensor, "T P C"], heads: int) -> Float[Tensor, "T P"]:
    """Attention that each patch receives, averaged over heads and queries; head by head, so that one map stands."""
    received = torch.zeros(queries.shape[:2], device=queries.device)
    for query, key in zip(queries.chunk(heads, dim=-1), keys.chunk(heads, dim=-1), strict=True):
        scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5  # [T, P, P]
        received += scores.softmax(dim=-1, dtype=torch.float32).mean(dim=1)
    return received / heads


def projected_keys(attention: nn.MultiheadAttention, hidden: Float[Tensor, "T P C"]) -> Float[Tensor, "T P C"]:
    """The keys that the pooling head's attention itself compares with its probe."""
    _, weight, _ = attention.in_proj_weight.chunk(3)
    _, bias, _ = attention.in_proj_bias.chunk(3)
    return nn.functional.linear(hidden, weight, bias)


def patches_in_joint_space(head: nn.Module, hidden: Float[Tensor, "T P C"]) -> Float[Tensor, "T P E"]:
    """Each patch as the image embedding that it would be alone: the pooling head over a sequence of one."""
    alone = hidden.flatten(0, 1)[:, None]  # [T*P, 1, C]
    embedded: Tensor = head(alone)
    return embedded.view(*hidden.shape[:2], -1)


def pool_patches(patches: Float[Tensor, "T P *C"], grid: tuple[int, int], pool: GridPool) -> Float[Tensor, "T N *C"]:
    """Bring patches of the encoder's own grid to the language model's, in float32."""
    frames, _, *channels = patches.shape
    pooled = pool.pool_map(patches.float().reshape(frames, *grid, -1))
    return pooled.view(frames, -1, *channels)
