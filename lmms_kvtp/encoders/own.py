"""Attention and keys of the language model's own vision tower: nothing runs beside the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder, mean_column, mean_keys, pool_patches
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames

ATTENTION = frozenset({"probe_attention", "column_attention"})


@dataclass(frozen=True)
class OwnTower(FrameEncoder):
    """Reads queries and keys of the last layer that the model's own tower runs, as question-free pruners' authors do.

    The tower has no pooling head, so no probe: the attention that a patch receives from the patches of its frame,
    averaged over heads, stands for both kinds of attention. Without a text side it scores no frames.
    """

    provides: ClassVar[frozenset[str]] = ATTENTION | {"keys", "layer_keys"}
    reads_tower: ClassVar[bool] = True

    @torch.no_grad()
    def encode(self, frames: Frames, needs: frozenset[str], pool: GridPool) -> FrameFeatures:
        """Compute the fields in `needs`, on the grid of `pool`.

        ValueError where `needs` holds something else, or the frames have not been through the model's tower.
        """
        self.check(needs)
        if not needs:
            return FrameFeatures(times=frames.tower_times)
        if not frames.inside:
            raise ValueError("encoder=own reads what the model's own tower computed of the frames; run that first")
        found: dict[str, Tensor] = {}
        if "keys" in needs:
            found["keys"] = torch.cat([pool_patches(seen.keys, pool.patches, pool) for seen in frames.inside])
        if "layer_keys" in needs:
            averages = [mean_keys(seen.keys, seen.heads) for seen in frames.inside]
            found["layer_keys"] = torch.cat([pool_patches(keys, pool.patches, pool) for keys in averages])
        if needs & ATTENTION:
            columns = [mean_column(seen.queries, seen.keys, seen.heads) for seen in frames.inside]
            attention = torch.cat([pool_patches(column, pool.patches, pool) for column in columns])
            found |= dict.fromkeys(needs & ATTENTION, attention)
        return FrameFeatures(times=frames.tower_times, **found)

    def embed_text(self, text: str) -> Float[Tensor, "_ E"]:
        """Refuse: the tower knows no texts."""
        raise ValueError("encoder=own has no text side, so it scores no frames; choose encoder=siglip or a predictor")

    def logits(self, image: Float[Tensor, "T E"], text: Float[Tensor, "q E"]) -> Float[Tensor, "q T"]:
        """Refuse: the tower knows no texts."""
        raise ValueError("encoder=own has no text side, so it scores no frames; choose encoder=siglip or a predictor")

    def flops(self, num_frames: int, needs: frozenset[str], pool: GridPool) -> int | None:
        """Not known from the pool alone: `own_flops` counts with the sizes of the tower."""
        return None if needs & ATTENTION else 0

    def relevance_flops(self, num_frames: int, texts: Sequence[str], views: int = 1) -> int | None:
        """There is no text side."""
        return 0


def encoder_flops(
    encoder: FrameEncoder, num_frames: int, needs: frozenset[str], *, pool: GridPool, width: int, steps: int
) -> int | None:
    """Count an encoder's operations on frames that make so many steps of the language model's tower.

    `encoder=own` computes the scores of one layer again where attention is read, and nothing else: 2 P^2 d for a step
    of P patches of width d.
    """
    if isinstance(encoder, OwnTower):
        return steps * 2 * math.prod(pool.patches) ** 2 * width if needs & ATTENTION else 0
    return encoder.flops(steps if encoder.reads_tower else num_frames, needs, pool)
