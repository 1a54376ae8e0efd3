"""Qwen-VL and InternVL by their sizes alone: what costs depend on, told without transformers, which is slow to load."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape, MergedShape, merged_flops
from lmms_kvtp.types import MARKUP, VISION, GridPool, PackedTokens
from lmms_kvtp.video.pixels import Channels, ProcessorPixels
from lmms_kvtp.vlms.checkpoint.config import read_json
from lmms_kvtp.vlms.load_options import LoadOptions

SIZES = Path(__file__).parent / "checkpoint" / "sizes.json"
"""Sizes of released models by hub id, which benchmarks/released_sizes.py writes."""
STEP_TEXT = {"qwen2_5_vl": (0, 0, 0, 0), "qwen3_vl": (6, 1, 0, 0), "internvl": (4, 1, 1, 1)}
"""Positions of text of a step of a video: before its tokens, beside the digits of its second or number; behind them;
and between two steps. Last, the first step's number."""
MIN_PIXELS, MAX_PIXELS = 256 * 28 * 28, 1605632
"""Pixels of a frame in lmms-eval's stock wrappers of both Qwen-VL families."""
OWN_LIMITS = 3136.0, 12845056.0  # pixels of a frame in the processor of the released Qwen2.5-VL
HALF = (0.5, 0.5, 0.5)


class Merging:
    """A tower whose neighbouring patches are merged into tokens."""

    stride: ClassVar[int] = 2
    """Patches along a side of what becomes a token."""

    vision: MergedShape

    def pooling(self, height: int, width: int) -> GridPool:
        """Say how patches become tokens: neighbours are merged."""
        side = self.vision.patch_size
        return GridPool("average", (height // side, width // side), self.stride)

    def vision_flops(self, pool: GridPool, steps: int) -> tuple[int, int]:
        """Count the operations of tower and mergers on so many steps."""
        return merged_flops(self.vision, pool.patches, steps)


@dataclass(frozen=True)
class Released(Merging):
    """What costs depend on in a released model of a family of `STEP_TEXT`."""

    name: str
    family: str
    llm: LLMShape
    vision: MergedShape
    limit: int
    """Positions of the longest prompt."""
    parameters: int
    options: LoadOptions
    default_encoder: ClassVar[str] = "google/siglip-so400m-patch14-384"

    @property
    def frames_per_step(self) -> int:
        """Frames that become the tokens of one grid."""
        return self.vision.frames

    def spec(self, num_frames: int) -> ProcessorPixels:
        """Say what the tower wants of each frame, but for the normalization."""
        if self.family == "internvl":
            return ProcessorPixels(HALF, HALF, (448, 448))
        factor = self.vision.patch_size * self.stride
        return qwen_pixels(self.options, factor, num_frames, OWN_LIMITS if self.family == "qwen2_5_vl" else None)

    def roles(self, packed: PackedTokens) -> Int[Tensor, " l"]:
        """Kinds of the places that stand for a video with a frame each second: its tokens, and text of its steps."""
        before, behind, between, first = STEP_TEXT[self.family]
        roles: list[int] = []
        for step, kept in enumerate(packed.counts().tolist()):
            digits = len(str(step * self.frames_per_step + first)) if before else 0
            text = 0 if self.options.empty == "drop" and not kept else before + digits
            roles += [MARKUP] * (text and text + between * bool(roles))
            roles += [VISION] * kept + [MARKUP] * (text and behind)
        return torch.tensor(roles, dtype=torch.long)


def released(name: str, options: LoadOptions) -> Released | None:
    """Sizes of a released model by its hub id; None where they are not known."""
    if (known := read_json(SIZES).get(name)) is None:
        return None
    shapes = {"llm": LLMShape(**known["llm"]), "vision": MergedShape(**known["vision"])}
    return Released(**{**known, **shapes}, options=options)


def qwen_pixels(
    given: LoadOptions,
    factor: int,
    num_frames: int,
    again: tuple[float, float] | None,
    mean: Channels = HALF,
    std: Channels = HALF,
) -> ProcessorPixels:
    """Say what Qwen-VL wants of each frame: its own shape in whole tokens of `factor` pixels, within given limits.

    Where the stock wrapper has the processor resize what qwen-vl-utils has resized, `again` are the processor's limits.
    ValueError where the least is above the most.
    """
    least = MIN_PIXELS if given.min_pixels is None else given.min_pixels
    total = given.total_pixels or 128_000 * 0.9 * factor**2
    most = max(min(768.0 * factor**2, total / max(1, num_frames) * 2), int(least * 1.05))
    if given.total_pixels is None:
        most = min(most, given.max_pixels or MAX_PIXELS)
    if least > most:
        raise ValueError(f"min_pixels={least} is above the most that a frame may have, {most:g}; lower min_pixels")
    if again and int(version("transformers").partition(".")[0]) >= 5:  # before, its processor takes none from others
        again = float(least), float(given.max_pixels or MAX_PIXELS)
    return ProcessorPixels(mean, std, None, factor, least, float(most), again)
