"""What pruners share: refusing what cannot be pruned, reading features, and packing what is kept."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

TOKENS_AT_ONCE = 16 * 14 * 14
"""Tokens that are worked on together, with the N x N matrix of each of their frames."""

AXES = {"image": 1, "text": 0}
"""Number of axes that a feature shares with the tokens, where it is not two (frames and patches)."""


def check(tokens: FrameTokens, budgets: Int[Tensor, " b"]) -> None:
    """Refuse budgets that the frames cannot hold; ValueError for one outside [0, N], or not one per frame."""
    frames, capacity = tokens.num_frames, tokens.capacity
    if len(budgets) != frames:
        raise ValueError(f"{len(budgets)} budgets for {frames} frames; give each frame one")
    bad = torch.nonzero((budgets < 0) | (budgets > capacity)).flatten().tolist()
    if bad:
        raise ValueError(f"cannot keep {int(budgets[bad[0]])} tokens of frame {bad[0]}, which has {capacity}")


def refuse_broken(tokens: FrameTokens) -> None:
    """Refuse tokens that are NaN or infinite, whether a pruner would read them or not.

    The ValueError names the first frames that hold one.
    """
    broken = ~torch.isfinite(tokens.embeds.sum(dim=(1, 2), dtype=torch.float32))
    if broken.any():
        raise ValueError(
            f"vision tokens of frames {_first(broken)} are NaN or infinite; a tower in float16 may overflow: choose "
            "dtype=bfloat16 or float32, or look at the checkpoint"
        )


def read(features: FrameFeatures, name: str, tokens: FrameTokens) -> Float[Tensor, "..."]:
    """Take a feature that a pruner needs; ValueError where it is missing, or of other frames or patches than tokens."""
    feature: Tensor | None = getattr(features, name)
    if feature is None:
        raise ValueError(f"this pruner reads {name}, which the features lack; choose an encoder that provides it")
    axes = AXES.get(name, 2)
    if feature.shape[:axes] != tokens.embeds.shape[:axes]:
        given, wanted = (" x ".join(map(str, part.shape[:axes])) for part in (feature, tokens.embeds))
        raise ValueError(f"{name} is of {given} frames x patches, the tokens of {wanted}")
    return feature


def chunks(values: Shaped[Tensor, "T N *rest"]) -> Iterator[slice]:
    """Cut the frames into runs of at most TOKENS_AT_ONCE tokens, and of one frame at least."""
    num_frames, capacity = values.shape[:2]
    together = max(1, TOKENS_AT_ONCE // max(1, capacity))
    for start in range(0, num_frames, together):
        yield slice(start, min(start + together, num_frames))


def refuse_nan(scores: Float[Tensor, "T ..."], what: str) -> None:
    """Refuse NaN, which has no order; the ValueError names the first frames that hold one."""
    refuse(torch.isnan(scores), what)


def refuse(broken: Bool[Tensor, "T ..."], what: str) -> None:
    """Refuse what is marked as NaN. Raises ValueError if something is marked; the message names the first frames."""
    frames = broken.flatten(1).any(dim=1)
    if frames.any():
        raise ValueError(f"{what} of frames {_first(frames)} hold NaN; look at the features and their dtype")


def _first(frames: Bool[Tensor, " T"]) -> list[int]:
    listed: list[int] = torch.nonzero(frames).flatten()[:5].tolist()
    return listed


def top(scores: Float[Tensor, "T N"], budgets: Int[Tensor, " T"]) -> Bool[Tensor, "T N"]:
    """Mark the `budgets[t]` highest scores of row t; ties go to the earlier column. ValueError where a score is NaN."""
    refuse_nan(scores, "scores")
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks < budgets.to(scores.device)[:, None]


def pack(
    tokens: FrameTokens,
    embeds: Float[Tensor, "T N D"],
    keep: Bool[Tensor, "T N"],
    size: Float[Tensor, "T N"] | None = None,
) -> PackedTokens:
    """Gather the rows of `embeds` that `keep` marks, in raster order; `size` defaults to one original each."""
    frame, patch = torch.nonzero(keep, as_tuple=True)
    ones = torch.ones(len(frame), device=embeds.device)
    return PackedTokens(
        embeds=embeds[frame, patch],
        frame=frame,
        patch=patch,
        size=ones if size is None else size[frame, patch],
        grid=tokens.grid,
        num_frames=tokens.num_frames,
    )
