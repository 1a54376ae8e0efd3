"""Interface of frame encoders."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost.meter import undeclared_flops
from lmms_kvtp.encoders.parts.text import RemembersTexts
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames


class FrameEncoder(RemembersTexts):
    """An image-text model that describes frames; its weights load on first use."""

    provides: ClassVar[frozenset[str]] = frozenset()
    """Fields of `FrameFeatures` that this encoder can compute."""
    training_free: ClassVar[bool] = True
    """Weights that were not trained for pruning suffice; a checkpoint trained for relevance may replace them."""

    reads_tower: ClassVar[bool] = False
    """Describes what the language model's own tower made of frames, and not the frames: steps, where that has steps."""

    @abstractmethod
    def encode(self, frames: Frames, needs: frozenset[str], pool: GridPool) -> FrameFeatures:
        """Compute the fields in `needs`, per-patch ones on the grid of `pool`.

        ValueError where `needs` holds something that this encoder does not provide.
        """

    @abstractmethod
    def logits(self, image: Float[Tensor, "T E"], text: Float[Tensor, "q E"]) -> Float[Tensor, "q T"]:
        """Compute relevance logits (eq. 2 of KVTP): scale * cosine + bias, with the model's learned scale and bias."""

    def companion(self, name: str) -> Path | None:
        """Find a file beside the encoder's weights, such as a head trained with it; None where there is none."""
        return None

    def flops(self, num_frames: int, needs: frozenset[str], pool: GridPool) -> int | None:
        """Count the operations of `encode` on so many frames (see `lmms_kvtp.cost.flops`).

        None, as of an encoder outside this package that leaves this method out: counted while it runs.
        """
        return undeclared_flops(self)

    def relevance_flops(self, num_frames: int, texts: Sequence[str], views: int = 1) -> int | None:
        """Count the operations of embedding texts and comparing them with `views` image embeddings of each frame.

        None, as of an encoder outside this package that leaves this method out: counted while it runs.
        """
        return undeclared_flops(self)

    def check(self, needs: frozenset[str]) -> None:
        """Refuse what this encoder does not provide; the ValueError names it."""
        missing = needs - self.provides
        if missing:
            raise ValueError(
                f"{type(self).__name__} does not provide {', '.join(sorted(missing))}; it has "
                f"{', '.join(sorted(self.provides))}"
            )


def mean_column(queries: Float[Tensor, "T P C"], keys: Float[Tensor, "T P C"], heads: int) -> Float[Tensor, "T P"]:
    """Average the attention that each patch receives over heads and queries, one head's map in memory at a time."""
    received = torch.zeros(queries.shape[:2], device=queries.device)
    for query, key in zip(queries.chunk(heads, dim=-1), keys.chunk(heads, dim=-1), strict=True):
        scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5  # [T, P, P]
        received += scores.softmax(dim=-1, dtype=torch.float32).mean(dim=1)
    return received / heads


def mean_keys(keys: Float[Tensor, "T P C"], heads: int) -> Float[Tensor, "T P Dh"]:
    """Average the keys of each patch over heads, in float32."""
    return keys.reshape(*keys.shape[:2], heads, -1).mean(dim=2, dtype=torch.float32)


def pool_patches(patches: Float[Tensor, "T P *C"], grid: tuple[int, int], pool: GridPool) -> Float[Tensor, "T N *C"]:
    """Bring patches of the encoder's own grid to the language model's, in float32."""
    frames, _, *channels = patches.shape
    pooled = pool.pool_map(patches.float().reshape(frames, *grid, -1))
    return pooled.view(frames, -1, *channels)
