"""The values that flow from a video and a question to an answer; see docs/design.md for the picture.

Axes in annotations: T frames (of some models, steps of two frames), N = h*w patches per frame on the language model's
pooled grid, K kept tokens, D language-model width, E image-text embedding width, L prompt positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

TEXT, VISION, NEWLINE, MARKUP = 0, 1, 2, 3
"""Values of `Prompt.role`; MARKUP is text that belongs to a video, such as the second of a frame."""
Positions = Literal["renumbered", "kept", "evs"]
"""Rotary positions of a pruned prompt. renumbered: 0, 1, 2, ...; kept: each place has that of the unpruned prompt; evs:
likewise, but on several axes text goes on behind the columns of a video, be it the taller one."""


@dataclass(frozen=True)
class Timing:
    """Where the sampled frames of a video lie in it, as the processors of transformers want to know."""

    indices: tuple[int, ...]
    """Indices of the frames, a frame of no step missing."""
    total: int
    """Frames of the video."""
    fps: float
    """Frames per second of the video."""

    @staticmethod
    def of(times: Float[Tensor, " T"]) -> "Timing":
        """Tell the same of frames whose seconds alone are known; the last one lasts as long as the others."""
        indices = (times.double() * 1000).round().long().tolist()
        each = (indices[-1] - indices[0]) // max(1, len(indices) - 1) or 1000
        return Timing(tuple(indices), indices[-1] + each, 1000.0)

    def select(self, chosen: Int[Tensor, " t"], steps: int) -> "Timing":
        """Keep only the frames of some of the `steps` that they form."""
        size = -(-len(self.indices) // steps)
        return replace(self, indices=tuple(i for n in chosen.tolist() for i in self.indices[n * size : (n + 1) * size]))


@dataclass(frozen=True)
class FrameTokens:
    """The vision tokens of all frames, as the language model would see them without pruning (no newlines)."""

    embeds: Float[Tensor, "T N D"]
    grid: tuple[int, int]
    """Rows and columns of a frame: N = rows * columns."""
    key: str = ""
    """The video's key: random pruners mix it into their seed."""
    deep: Float[Tensor, "T N S D"] | None = None
    """What the model adds to each token behind its first S layers; None where it adds nothing."""
    timing: Timing | None = None
    """Where the frames lie in the video; None where nobody told."""

    @staticmethod
    def cat(parts: "list[FrameTokens]", key: str, timing: Timing | None) -> "FrameTokens":
        """Join the chunks of one video."""
        deep = None if parts[0].deep is None else torch.cat([part.deep for part in parts if part.deep is not None])
        return FrameTokens(torch.cat([part.embeds for part in parts]), parts[0].grid, key, deep, timing)

    @property
    def num_frames(self) -> int:
        """T, the number of frames."""
        return self.embeds.shape[0]

    @property
    def capacity(self) -> int:
        """N, the tokens that one frame has."""
        return self.embeds.shape[1]

    def fill(self, packed: "PackedTokens") -> "PackedTokens":
        """Give to what a pruner kept what else the model needs of it: `deep` and `timing`."""
        deep = None if self.deep is None else self.deep[packed.frame, packed.patch]
        return replace(packed, deep=deep, timing=self.timing)

    def whole(self) -> "PackedTokens":
        """Keep all tokens."""
        place = torch.arange(self.num_frames * self.capacity, device=self.embeds.device)
        at, size = (place // self.capacity, place % self.capacity), torch.ones(len(place), device=place.device)
        return self.fill(PackedTokens(self.embeds.flatten(0, 1), *at, size, self.grid, self.num_frames))

    def select(self, frames: Int[Tensor, " t"]) -> "FrameTokens":
        """Keep only the frames of these indices."""
        chosen = frames.to(self.embeds.device)
        timing = self.timing and self.timing.select(frames, self.num_frames)
        deep = None if self.deep is None else self.deep[chosen]
        return replace(self, embeds=self.embeds[chosen], deep=deep, timing=timing)


@dataclass(frozen=True)
class FrameFeatures:
    """Features of each frame, made by an image-text encoder. Fields that nobody asked for are None."""

    times: Float[Tensor, " T"]
    """Seconds from the start of the video."""
    image: Float[Tensor, "T E"] | None = None
    """Pooled image embeddings, not normalized."""
    probe_attention: Float[Tensor, "T N"] | None = None
    """Attention of the pooling head's probe to each patch, averaged over heads."""
    column_attention: Float[Tensor, "T N"] | None = None
    """Attention that each patch receives in the layer before a SigLIP's last, averaged over heads and queries."""
    keys: Float[Tensor, "T N Dk"] | None = None
    """Patch features that stand for what a patch shows: input of the pooling head."""
    layer_keys: Float[Tensor, "T N Dh"] | None = None
    """Keys of the layer that `column_attention` is of, averaged over heads."""
    patch_text: Float[Tensor, "T N E"] | None = None
    """Patches in the joint image-text space."""
    text: Float[Tensor, "q E"] | None = None
    """Question in that space, a row for each piece of a long one; not normalized."""
    tokens: Float[Tensor, "T N D"] | None = None
    """The language model's own tokens."""

    def select(self, frames: Int[Tensor, " t"]) -> "FrameFeatures":
        """Keep only the frames of these indices."""
        return self._map(lambda column: column[0][frames.to(column[0].device)], [self])

    def to(self, device: torch.device) -> "FrameFeatures":
        """Move all fields but the times to one device."""
        return replace(self._map(lambda column: column[0].to(device), [self]), times=self.times)

    def steps(self, count: int) -> "FrameFeatures":
        """Average over the frames of each of `count` steps."""
        return self._map(lambda column: step_means(column[0], count), [self])

    @staticmethod
    def cat(parts: "list[FrameFeatures]") -> "FrameFeatures":
        """Join the chunks of one video; every chunk has the same fields."""
        return FrameFeatures._map(torch.cat, parts)

    @staticmethod
    def _map(join: Callable[[list[Tensor]], Tensor], parts: "list[FrameFeatures]") -> "FrameFeatures":
        names = ["times", *(name for name in FEATURES if getattr(parts[0], name) is not None)]
        return replace(parts[0], **{name: join([getattr(part, name) for part in parts]) for name in names})


def step_means(frames: Shaped[Tensor, "T *rest"], steps: int) -> Shaped[Tensor, "S *rest"]:
    """Average over the frames of each step; the last one may be shorter."""
    size = -(-len(frames) // steps)
    return torch.stack([part.mean(dim=0) for part in torch.split(frames, size)])


ADDED = frozenset({"text", "tokens"})
"""Features that the pipeline adds for each question, whatever the encoder."""
FEATURES = frozenset(f.name for f in fields(FrameFeatures)) - {"times"} - ADDED
"""Features that encoders compute from frames. A component may put these names, and ADDED ones, in its `needs`."""


@dataclass(frozen=True)
class PackedTokens:
    """The tokens that survive a pruner, in raster order: frame by frame, row by row."""

    embeds: Float[Tensor, "K D"]
    frame: Int[Tensor, " K"]
    patch: Int[Tensor, " K"]
    """Cell of the frame's grid; a merged token stands at its representative."""
    size: Float[Tensor, " K"]
    """How many original tokens were merged into each."""
    grid: tuple[int, int]
    num_frames: int
    segment: Int[Tensor, " K"] | None = None
    """Group within which a layer pruner selects, numbered from 0, where the pruner made groups; frames otherwise."""
    owner: Int[Tensor, "T N"] | None = None
    """The kept token, counted through K, that each original token went into; -1 where it was dropped. None where the
    pruner merges nothing, or does not tell."""
    flops: int = 0
    """Operations of the pruner, where they depend on what it found; `TokenPruner.flops` tells the others beforehand."""
    newline: Bool[Tensor, " K"] | None = None
    """Tokens that a newline follows, where these are tiles of an image; None for frames, where the model has a rule."""
    deep: Float[Tensor, "K S D"] | None = None
    """`FrameTokens.deep` of each; a merged token has its representative's. The pipeline fills it in."""
    timing: Timing | None = None
    """`FrameTokens.timing`, which the pipeline fills in."""

    def counts(self) -> Int[Tensor, " T"]:
        """Count the kept tokens of each frame."""
        counts = torch.zeros(self.num_frames, dtype=torch.long, device=self.frame.device)
        return counts.scatter_add_(0, self.frame, torch.ones_like(self.frame))  # bincount would wait for a GPU

    def kept(self) -> Bool[Tensor, "T h w"]:
        """Tell which cells of each frame's grid have a token here."""
        kept = torch.zeros(self.num_frames, self.grid[0] * self.grid[1], dtype=torch.bool)
        kept[self.frame.cpu(), self.patch.cpu()] = True
        return kept.view(self.num_frames, *self.grid)


@dataclass(frozen=True)
class Prompt:
    """What enters the language model; all that describes its places is on the CPU."""

    embeds: Float[Tensor, "L D"]
    role: Int[Tensor, " L"]
    """TEXT, VISION, NEWLINE or MARKUP."""
    frame: Int[Tensor, " L"]
    """Frame of a vision or newline position, counted over all videos of the prompt; -1 for text and markup."""
    segment: Int[Tensor, " L"] | None = None
    """`PackedTokens.segment` of a vision position, counted over all videos of the prompt; -1 elsewhere."""
    num_frames: int = 0
    """Number of frames of all videos in the prompt."""
    positions: Int[Tensor, "*A L"] | None = None
    """Position of each place in the unpruned prompt, on each of A axes where there are several; None: 0 to L - 1."""
    span: int | None = None
    """Position at which an answer begins, where `positions` are given: behind all places of the unpruned prompt."""
    ids: Int[Tensor, " L"] | None = None
    """Token ids, with the placeholder at vision positions, where a repetition penalty counts those of the prompt."""
    deep: Float[Tensor, "S L D"] | None = None
    """What is added to the hidden states behind each of the first S layers; zero at text."""

    @property
    def end(self) -> int:
        """Position of the first token of an answer."""
        return self.length if self.span is None else self.span

    @property
    def length(self) -> int:
        """L, the number of positions."""
        return self.embeds.shape[0]


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is decoded."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    """0 means greedy decoding."""
    top_p: float | None = None
    num_beams: int = 1
    until: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""
    seed: int = 0
    """Seed of the sampler; unused when greedy."""


@dataclass(frozen=True)
class Generation:
    """One decoded answer and how the model came to it."""

    text: str
    num_tokens: int
    """Generated tokens, the end token included."""
    layer_lengths: tuple[int, ...]
    """Prompt positions that each layer of the language model processed in prefill."""
    prefill_seconds: float
    decode_seconds: float
    cache_lengths: tuple[int, ...] = ()
    """Prompt positions in each layer's cache while decoding; empty where they are `layer_lengths`."""
    reused: int = 0
    """Prompt positions of every layer whose keys and values an earlier prompt had left."""


MODES = ("bilinear", "average", "max")


@dataclass(frozen=True)
class GridPool:
    """LLaVA-Video's pooling with stride 2 of a frame's patch grid: bilinear rounds up, average and max round down.

    Source: LLaVA-Video (arXiv 2410.02713); sizes and modes as in its released code.
    """

    mode: str
    patches: tuple[int, int]
    """Rows and columns of the vision tower's grid."""
    stride: int = 2

    def __post_init__(self) -> None:
        """Refuse an unknown mode by name."""
        if self.mode not in MODES:
            raise ValueError(f"unknown pooling {self.mode!r}; this model family has {', '.join(MODES)}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns after pooling."""
        rows, columns = self.patches
        up = self.stride - 1 if self.mode == "bilinear" else 0
        return (rows + up) // self.stride, (columns + up) // self.stride

    def __call__(self, patches: Float[Tensor, "T P C"]) -> Float[Tensor, "T N C"]:
        """Pool features whose P patches lie in raster order."""
        return self.pool_map(patches.reshape(len(patches), *self.patches, -1))

    def pool_map(self, patches: Float[Tensor, "T r c C"]) -> Float[Tensor, "T N C"]:
        """Pool a map of any size to this grid: the model's operator on its own grid, area averages on another one."""
        maps = patches.permute(0, 3, 1, 2)
        if tuple(maps.shape[2:]) != self.patches:
            pooled = F.adaptive_avg_pool2d(maps, self.grid)
        elif self.mode == "bilinear":
            pooled = F.interpolate(maps, size=self.grid, mode="bilinear", align_corners=False)
        elif self.mode == "average":
            pooled = F.avg_pool2d(maps, self.stride)
        else:
            pooled = F.max_pool2d(maps, self.stride)
        return pooled.flatten(2).transpose(1, 2)
