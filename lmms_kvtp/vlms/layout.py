"""Layout of the prompt: the chat template around it, and the positions and newlines that stand for a video."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.device import send
from lmms_kvtp.resolve import near
from lmms_kvtp.types import NEWLINE, TEXT, VISION, FrameTokens, PackedTokens, Positions, Prompt

if TYPE_CHECKING:  # a layout is needed where nothing runs, too
    from transformers import PreTrainedTokenizerBase

SYSTEM = "system\nYou are a helpful assistant."
POSITIONS = ("grid", "frame", "one_token", "no_token")
POLICIES = ("auto", "row", "frame", "none", "release")
MERGE_TYPES = ("flat", "spatial", "spatial_unpad")


@dataclass(frozen=True)
class Chat:
    """LLaVA-Video's chat template (qwen_1_5) as token ids; only its own markers become special tokens."""

    tokenizer: "PreTrainedTokenizerBase"

    def around(self, text: str, visuals: bool) -> tuple[list[int], list[int]]:
        """Split the prompt's ids into those before and behind the visuals; without visuals all are before.

        ValueError where `text` is empty.
        """
        if not text.strip():
            raise ValueError(f"the question is empty ({text!r}); a prompt needs some text")
        before, user, behind = self._template
        # text between two markers is split into words as a whole, so it is encoded as a whole
        if visuals:
            return [*before, *user], [*self.plain(f"\n{text}"), *behind]
        return [*before, *self.plain(f"user\n{text}"), *behind], []

    @cached_property
    def _template(self) -> tuple[list[int], list[int], list[int]]:
        """Ids before the user's turn, at its start and behind it, which no question changes."""
        start, end = self.marker("<|im_start|>"), self.end
        before = [start, *self.plain(SYSTEM), end, *self.plain("\n"), start]
        return before, self.plain("user\n"), [end, *self.plain("\n"), start, *self.plain("assistant\n")]

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.marker("<|im_end|>")

    @property
    def pad(self) -> int:
        """The token that fills up shorter answers."""
        pad = self.tokenizer.pad_token_id
        return self.end if pad is None else cast(int, pad)

    def marker(self, name: str) -> int:
        """Look up the id of a special token."""
        return cast(int, self.tokenizer.convert_tokens_to_ids(name))

    def plain(self, text: str) -> list[int]:
        """Split `text` into ids; `<|im_end|>` and the like are plain characters in it."""
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids
        return ids


@dataclass(frozen=True)
class Newlines:
    """Where a model's learned newline stands among the vision tokens of a video.

    Source: the four positions are LLaVA-Video's (arXiv 2410.02713), as in its released code. The released code of
    KVTP (arXiv 2503.10742) puts newlines between the rows of a pruned frame in the order in which its pruner returned
    the tokens, and with random pruning one for an empty frame; here tokens are in raster order and an empty frame
    leaves nothing.
    """

    position: str = "grid"
    """Newlines of the unpruned model. grid: after each row; frame: after each frame; one_token: after the video."""
    policy: str = "auto"
    """auto: as `position` says, but with grid a frame that lost tokens has one newline, at its end.
    row, frame: after each row or frame that has tokens, whatever `position` says. none: nowhere. release: between rows
    of a pruned frame, none at its end, as KVTP's release does; but in raster order, where it has its pruners' order."""
    merge_type: str = "spatial_unpad"
    """`mm_patch_merge_type`: flat has no newlines at all, spatial none after the video."""

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        for name, known in (("position", POSITIONS), ("policy", POLICIES), ("merge_type", MERGE_TYPES)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"unknown newline {name} {value!r}; {near(value, list(known))}")

    def after(self, packed: PackedTokens) -> Bool[Tensor, " K"]:
        """Mark the tokens that a newline follows."""
        if packed.newline is not None:
            return packed.newline
        rows, columns = packed.grid
        frame_ends = _ends(packed.frame)
        row_ends = _ends(packed.frame * rows + packed.patch // columns)
        if self.policy != "auto":
            whole = (packed.counts() == rows * columns)[packed.frame]
            between = row_ends & (~frame_ends | whole)
            none = torch.zeros_like(row_ends)
            return {"row": row_ends, "frame": frame_ends, "none": none, "release": between}[self.policy]
        if self.merge_type == "flat" or self.position == "no_token":
            return torch.zeros_like(row_ends)
        if self.position == "grid":
            whole = packed.counts() == rows * columns
            return torch.where(whole[packed.frame], row_ends, frame_ends)
        if self.position == "frame":
            return frame_ends
        return _ends(torch.zeros_like(packed.frame)) & ("unpad" in self.merge_type)


def _ends(labels: Int[Tensor, " K"]) -> Bool[Tensor, " K"]:
    """Mark the last token of each run of equal labels."""
    ends = torch.ones_like(labels, dtype=torch.bool)
    ends[:-1] = labels[1:] != labels[:-1]
    return ends


def lay_out(
    packed: PackedTokens,
    newline: Float[Tensor, " D"],
    newlines: Newlines,
    first_frame: int = 0,
    first_segment: int = 0,
    positions: Positions = "renumbered",
) -> Prompt:
    """Lay out the run of positions that stands for one video.

    Args:
        packed: the tokens kept, in raster order, their places on the CPU.
        newline: the learned embedding.
        newlines: where the embedding goes.
        first_frame: frames of the prompt before this video.
        first_segment: segments of the prompt before this video.
        positions: whether places keep the positions that they have where all tokens are kept.
    """
    after = newlines.after(packed).long()
    token = torch.arange(len(after), device=after.device) + after.cumsum(0) - after
    length = len(after) + int(after.sum())
    embeds = newline.to(packed.embeds).repeat(length, 1)
    embeds[send(token, embeds.device)] = packed.embeds
    role = torch.full((length,), NEWLINE, device=after.device)
    role[token] = VISION
    frame = (packed.frame + first_frame).repeat_interleave(after + 1, output_size=length)
    segment = None
    if packed.segment is not None:
        segment = torch.full_like(role, -1)
        segment[token] = packed.segment + first_segment
    run = Prompt(embeds, role, frame, segment, packed.num_frames)
    if positions == "renumbered" or packed.newline is not None:  # tiles of an image are whole
        return run
    cells, span = _unpruned(packed, newlines)
    held = torch.empty_like(role)
    held[token], held[(token + 1)[after > 0]] = cells[0], cells[1][after > 0]
    return replace(run, positions=held, span=span)


def _unpruned(packed: PackedTokens, newlines: Newlines) -> tuple[Int[Tensor, "2 K"], int]:
    """Find where each token, and the next newline behind it, stand where all tokens are kept; and how many places."""
    capacity = packed.grid[0] * packed.grid[1]
    behind = newlines.after(FrameTokens(torch.zeros(packed.num_frames, capacity, 0), packed.grid).whole())
    place = torch.arange(len(behind)) + behind.cumsum(0) - behind.long()
    slots = torch.nonzero(behind).flatten()
    kept = packed.frame * capacity + packed.patch
    if not len(slots):
        return torch.stack([place[kept]] * 2), len(behind)
    following = slots[torch.searchsorted(slots, kept).clamp(max=len(slots) - 1)]
    return torch.stack([place[kept], place[following] + 1]), len(behind) + len(slots)


def text_run(embeds: Float[Tensor, "L D"]) -> Prompt:
    """Make a run of positions that holds text."""
    role = torch.full((len(embeds),), TEXT)
    return Prompt(embeds, role, torch.full_like(role, -1))


def join(runs: Sequence[Prompt]) -> Prompt:
    """Put runs of positions one behind the other; segments are kept if any run has them."""
    segment = None
    if any(run.segment is not None for run in runs):
        absent = [torch.full_like(run.role, -1) for run in runs]
        segment = torch.cat([a if run.segment is None else run.segment for run, a in zip(runs, absent, strict=True)])
    span, places = 0, []
    for run in runs:
        places.append(span + (torch.arange(run.length) if run.positions is None else run.positions))
        span += run.end
    whole = span == sum(run.length for run in runs)
    return Prompt(
        torch.cat([run.embeds for run in runs]),
        torch.cat([run.role for run in runs]),
        torch.cat([run.frame for run in runs]),
        segment,
        sum(run.num_frames for run in runs),
        None if whole else torch.cat(places),
        None if whole else span,
    )
