"""The prompt of all tokens, as the processor of a family in transformers writes it around videos and a question."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lmms_kvtp.types import MARKUP, TEXT, VISION, PackedTokens, Timing
from lmms_kvtp.vlms.checkpoint.config import CheckpointError

if TYPE_CHECKING:
    from lmms_kvtp.vlms.native import NativeVLM

Shown = tuple[tuple[Timing, tuple[int, int]], ...]
"""Timing and grid of tokens of each video of a prompt."""


@dataclass(frozen=True)
class PromptFrame:
    """A prompt of all tokens, but for its question."""

    before: list[int]
    """Ids before the piece of text that holds the question."""
    roles: list[int]
    """Kinds of these places."""
    head: str
    """Beginning of that piece."""
    tail: str
    """End of that piece."""
    behind: list[int]
    """Ids behind it."""
    inputs: Any
    """What the processor made."""


def rendered(vlm: "NativeVLM", videos: int, text: str) -> str:
    """Fill the chat template with a turn of so many videos and a text."""
    content = [*({"type": "video"} for _ in range(videos)), {"type": "text", "text": text}]
    turns, thinking = [*vlm.system(), {"role": "user", "content": content}], vlm.options.enable_thinking
    more = {} if thinking is None else {"enable_thinking": thinking}
    return str(vlm.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **more))


def processed(vlm: "NativeVLM", prompt: str, videos: Sequence[Tensor], timings: Sequence[Timing], **more: Any) -> Any:
    """Have the processor read sampled and resized videos, [T, 3, H, W], and their prompt, with `more` settings."""
    told = [{"fps": t.fps, "frames_indices": list(t.indices), "total_num_frames": t.total} for t in timings]
    shown = {"videos": list(videos), "video_metadata": told, "do_sample_frames": False, "do_resize": False, **more}
    return vlm.processor(text=[prompt], return_tensors="pt", **(shown if videos else {}))


def around(vlm: "NativeVLM", shown: Shown) -> PromptFrame:
    """Have the processor lay out a prompt around a question of one special token, and videos of the least size.

    CheckpointError where the chat template does not write the question once.
    ValueError where the processor takes no videos of these lengths together.
    """
    mark, side, pad = vlm.tokenizer.pad_token_id, vlm.vision.patch_size * vlm.stride, vlm.vision_token
    least = [torch.zeros(len(timing.indices), 3, side, side, dtype=torch.uint8) for timing, _ in shown]
    prompt = rendered(vlm, len(shown), vlm.tokenizer.pad_token)
    try:
        inputs = processed(vlm, prompt, least, [timing for timing, _ in shown])
    except (ValueError, RuntimeError) as odd:  # InternVL's stacks all videos of a prompt
        if len(lengths := {len(timing.indices) for timing, _ in shown}) < 2:
            raise
        told = ", ".join(map(str, sorted(lengths)))
        raise ValueError(f"{vlm.family} takes no videos of {told} frames in one prompt; show as many of each") from odd
    ids = inputs["input_ids"][0].tolist()
    if ids.count(mark) != 1:
        raise CheckpointError(f"the chat template of {vlm.name} writes a question {ids.count(mark)} times, not once")
    at, special = ids.index(mark), {*vlm.tokenizer.added_tokens_decoder}
    left = max(number for number in range(at) if ids[number] in special) + 1
    right = min(number for number in range(at + 1, len(ids)) if ids[number] in special)
    marker: Any = vlm.tokenizer.convert_tokens_to_ids(vlm.processor.video_token)
    videos = _replaced(vlm.tokenizer(prompt).input_ids, ids, marker)
    videos = videos if ids[min(videos.start, left)] != pad else range(0)  # whose steps have no text of their own
    steps = [-(-len(timing.indices) // vlm.frames_per_step) for timing, _ in shown]
    each = ids.count(pad) // max(1, sum(steps))  # placeholders of a step of a least video
    sizes = iter([g[0] * g[1] // each for (_, g), count in zip(shown, steps, strict=True) for _ in range(count * each)])
    whole: list[tuple[int, int]] = []
    for number, token in enumerate(ids[:left]):
        inside = token not in special or pad in (ids[number - 1], ids[number + 1])  # not between two videos
        role = MARKUP if number in videos and inside else TEXT
        whole += [(token, VISION)] * next(sizes) if token == pad else [(token, role)]
    if "video_grid_thw" in inputs:
        inputs["video_grid_thw"][:, 1:] = torch.tensor([grid for _, grid in shown]) * vlm.stride
    head, tail = (str(vlm.tokenizer.decode(part)) for part in (ids[left:at], ids[at + 1 : right]))
    return PromptFrame([token for token, _ in whole], [role for _, role in whole], head, tail, ids[right:], inputs)


def _replaced(raw: list[int], ids: list[int], marker: int) -> range:
    """Find what the processor has put for the videos of a prompt, whose ids were `raw` before.

    Some releases replace the marker of a video alone, others the tokens around it, too: as many behind as before.
    """
    at = [place for place, token in enumerate(raw) if token == marker] or [0]
    before = min(at[0], _alike(raw, ids))
    behind = min(len(raw) - 1 - at[-1] - (at[0] - before), _alike(raw[::-1], ids[::-1]))
    return range(before, len(ids) - behind)


def _alike(one: list[int], other: list[int]) -> int:
    """Count the equal entries at the beginning of both."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def behind_columns(held: Int[Tensor, "A L"], vision: Bool[Tensor, " L"]) -> Int[Tensor, "A L"]:
    """Let text behind each run of vision tokens go on at the position behind the run's last column.

    Source: Efficient Video Sampling (arXiv 2510.14624) as released in vLLM.
    """
    moved = held.clone()
    edges = torch.nonzero(vision[1:] != vision[:-1]).flatten() + 1
    for first, behind in edges.view(-1, 2).tolist():  # text stands on both sides of a run
        moved[:, behind:] += moved[-1, first:behind].max() + 1 - moved[0, behind]
    return moved


def joined(visuals: Sequence[PackedTokens]) -> Int[Tensor, "3 K"]:
    """Count cells, frames and segments of the kept tokens through all videos of a prompt."""
    parts, first = [torch.zeros(3, 0, dtype=torch.long)], torch.zeros(3, 1, dtype=torch.long)
    for visual in visuals:
        size, frame = visual.grid[0] * visual.grid[1], visual.frame.cpu()
        segment = torch.full_like(frame, -1) if visual.segment is None else visual.segment.cpu() + first[2]
        parts.append(torch.stack([frame * size + visual.patch.cpu() + first[0], frame + first[1], segment]))
        groups = segment.max() + 1 - first[2] if visual.segment is not None and len(segment) else 0
        first = first + torch.tensor([[visual.num_frames * size], [visual.num_frames], [int(groups)]])
    return torch.cat(parts, dim=1)
