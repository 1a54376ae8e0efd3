"""What a method keeps of a video for a question, ready to be drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Answer, Prepared
from lmms_kvtp.questions import Question
from lmms_kvtp.run.answerer import Answerer, plain_errors, unrecorded
from lmms_kvtp.run.asks import ask_about
from lmms_kvtp.types import GenerationOptions, PackedTokens
from lmms_kvtp.video.frames import Video
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM

DROPPED, MERGED, KEPT = 0, 1, 2
"""States of a patch."""
LIGHT = (0.18, 0.55, 1.0)
"""Brightness of a patch by its state."""
WIDTH = 192
"""Width of a small frame in pixels."""


@dataclass(frozen=True)
class Link:
    """A patch whose token was merged into that of another patch."""

    frame: int
    patch: int
    to_frame: int
    to_patch: int


@dataclass(frozen=True)
class MethodPicture:
    """What one method made of one video and question."""

    name: str
    relevance: Float[Tensor, " T"]
    budgets: Int[Tensor, " T"]
    kept: Int[Tensor, " T"]
    """Number of tokens of each frame that entered the language model."""
    state: Int[Tensor, "T N"]
    """State of each patch: DROPPED, MERGED or KEPT."""
    links: tuple[Link, ...]
    traced: bool
    """Whether merges could be followed; if not, all that is not kept is shown as dropped."""
    grid: tuple[int, int]
    answer: Answer


@dataclass(frozen=True)
class SmallFrames:
    """The frames that the model saw, reduced for pictures."""

    rgb: UInt8[Tensor, "T H W 3"]
    times: Float[Tensor, " T"]

    def of_steps(self, count: int) -> "SmallFrames":
        """Keep the first frame of each of `count` steps that the model makes of them."""
        size = -(-len(self.rgb) // count)
        return SmallFrames(self.rgb[::size], self.times[::size])


def pictures(vlm: VideoVLM, methods: Mapping[str, Method], video: Video, question: Question) -> list[MethodPicture]:
    """Answer the question with each method, on one encoding of the video, and keep what led to the answer.

    VideoError where the video cannot be read, PromptTooLongError where a prompt does not fit in the model's context.
    """
    made: dict[int, Prepared] = {}
    answerer = Answerer(
        [unrecorded(vlm, method) for method in methods.values()],
        FrameOptions(),
        watch=lambda lane, _, ready: made.update({lane: ready}),
    )
    ask = ask_about([video], question, GenerationOptions(max_new_tokens=32))
    with plain_errors():
        answers = {lane: answer for lane, _, answer in answerer.answer_all({0: ask})}
    return [_picture(name, made[lane], answers[lane]) for lane, name in enumerate(methods)]


def _picture(name: str, ready: Prepared, answer: Answer) -> MethodPicture:
    [packed], [given] = ready.packed, ready.weighed
    assert given is not None
    state, links, traced = trace(packed)
    return MethodPicture(
        name=name,
        relevance=given.relevance.float().cpu(),
        budgets=given.budgets.cpu(),
        kept=packed.counts().cpu(),
        state=state,
        links=links,
        traced=traced,
        grid=packed.grid,
        answer=answer,
    )


def trace(packed: PackedTokens) -> tuple[Int[Tensor, "T N"], tuple[Link, ...], bool]:
    """State of each patch, a link for each merged one, and whether merges could be followed at all."""
    frame, patch = packed.frame.cpu(), packed.patch.cpu()
    rows, columns = packed.grid
    state = torch.full((packed.num_frames, rows * columns), DROPPED)
    owner = torch.full_like(state, -1) if packed.owner is None else packed.owner.cpu()
    state[owner >= 0] = MERGED
    state[frame, patch] = KEPT
    links = [
        Link(t, n, int(frame[owner[t, n]]), int(patch[owner[t, n]])) for t, n in torch.nonzero(state == MERGED).tolist()
    ]
    followed = packed.owner is not None or bool((packed.size == 1).all())
    return state, tuple(links), followed


def small_frames(video: Video) -> SmallFrames:
    """Read the frames of a video again, reduced for pictures; VideoError where the video cannot be read."""
    small: list[Tensor] = []
    times = []
    for frames in video.chunks():
        times.append(frames.times)
        for rgb in frames.rgb:
            size = (WIDTH, small[0].shape[0] if small else max(1, round(WIDTH * rgb.shape[0] / rgb.shape[1])))
            small.append(torch.from_numpy(np.array(Image.fromarray(rgb.numpy()).resize(size))))
    return SmallFrames(torch.stack(small), torch.cat(times).float())


def lit(rgb: UInt8[Tensor, "H W 3"], state: Int[Tensor, " N"], grid: tuple[int, int]) -> UInt8[Tensor, "H W 3"]:
    """A frame with dropped patches dark and merged ones dim; the grid spans the frame, whatever its shape."""
    height, width = rgb.shape[:2]
    rows = torch.arange(height) * grid[0] // height
    columns = torch.arange(width) * grid[1] // width
    light = torch.tensor(LIGHT)[state.reshape(grid)][rows][:, columns]
    return (rgb * light[..., None]).round().to(torch.uint8)


def middle(patch: int, columns: int) -> tuple[float, float]:
    """Where the middle of a patch lies, counted in patches (x, y)."""
    row, column = divmod(patch, columns)
    return column + 0.5, row + 0.5


def most_telling(found: Sequence[MethodPicture], count: int) -> list[int]:
    """Choose `count` frames to show: half of them evenly spread, half those of which some method keeps most."""
    total = len(found[0].kept)
    if total <= count:
        return list(range(total))
    spread = torch.linspace(0, total - 1, count - count // 2).round().long().tolist()
    kept = torch.stack([picture.kept.float() for picture in found])
    excess = (kept - kept.mean(dim=1, keepdim=True)).amax(dim=0)
    ranked = [t for t in excess.argsort(descending=True, stable=True).tolist() if t not in spread]
    return sorted({*spread, *ranked[: count - len(set(spread))]})
