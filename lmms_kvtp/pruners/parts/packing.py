"""What pruners share: refusing what cannot be pruned, reading features, and packing what is kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lmms_kvtp.device import send
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
            f"vision tokens of frames {places(broken)[:5, 0].tolist()} are NaN or infinite; a tower in float16 may "
            "overflow: choose dtype=bfloat16 or float32, or look at the checkpoint"
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
    frames, later = broken.flatten(1).any(dim=1), _broken.get()
    if later is not None:
        later.append((frames, what))
    elif frames.any():
        first = places(frames)[:5, 0].tolist()
        raise ValueError(f"{what} of frames {first} hold NaN; look at the features and their dtype")


Broken = list[tuple[Bool[Tensor, " _"], str]]
_broken: ContextVar[Broken | None] = ContextVar("broken", default=None)


@contextmanager
def refused_later() -> Iterator[Broken]:
    """Collect what `refuse` marks inside the block, for `land` to look at: nobody waits for a GPU until then."""
    broken: Broken = []
    token = _broken.set(broken)
    try:
        yield broken
    finally:
        _broken.reset(token)


def land(packed: PackedTokens, broken: Sequence[tuple[Bool[Tensor, " _"], str]] = ()) -> PackedTokens:
    """Bring to the host in one copy what a prompt's layout reads; ValueError where something was marked as broken."""
    kept = [packed.frame, packed.patch, *([] if packed.segment is None else [packed.segment])]
    parts = [*kept, *(frames.to(packed.frame) for frames, _ in broken)]
    landed = torch.split(torch.cat(parts).cpu(), [len(part) for part in parts])
    if (landed[0] < 0).any():
        marked = int((landed[0] >= 0).sum())
        raise ValueError(f"a pruner has told `pack` to keep {len(landed[0])} tokens, and has marked {marked}")
    for frames, (_, what) in zip(landed[len(kept) :], broken, strict=True):
        refuse(frames[:, None] > 0, what)
    segment = None if packed.segment is None else landed[2]
    return replace(packed, frame=landed[0], patch=landed[1], segment=segment)


def places(keep: Bool[Tensor, "*n"], count: int | None = None) -> Int[Tensor, "K axes"]:
    """Find the places that are marked, in order; where nobody tells the `count` of them, a GPU is waited for."""
    return torch.nonzero(keep) if count is None or keep.is_mps else torch.nonzero_static(keep, size=count)


def top(scores: Float[Tensor, "T N"], budgets: Int[Tensor, " T"]) -> Bool[Tensor, "T N"]:
    """Mark the `budgets[t]` highest scores of row t; ties go to the earlier column. ValueError where a score is NaN."""
    refuse_nan(scores, "scores")
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks < send(budgets, scores.device)[:, None]


def pack(
    tokens: FrameTokens, embeds: Float[Tensor, "T N D"], keep: Bool[Tensor, "T N"], count: int | None = None
) -> PackedTokens:
    """Gather the rows of `embeds` that `keep` marks, in raster order; `count` is as in `places`."""
    frame, patch = places(send(keep, embeds.device), count).unbind(dim=1)
    return PackedTokens(
        embeds=embeds[frame, patch],
        frame=frame,
        patch=patch,
        size=torch.ones(len(frame), device=embeds.device),
        grid=tokens.grid,
        num_frames=tokens.num_frames,
    )
