"""Time to the first token of a video, a file or one whose pixels are on the device already."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import answer
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions, Timing
from lmms_kvtp.video.frames import Frames, Video
from lmms_kvtp.video.pixels import PixelSpec, ResizedPixels
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.decoding import now

QUESTION = Question(
    prompt="\n".join(["What color is the star?", "A. red", "B. green", "C. blue", "D. yellow", *["Answer."] * 32]),
    stem="What color is the star?",
    refined="What color is the star?",
)
"""Question as long as those of the benchmarks, options and instructions included."""


@dataclass(frozen=True, eq=False)
class PixelVideo:
    """A video of which nothing needs to be decoded or resized."""

    pixels: Mapping[PixelSpec, Float[Tensor, "T 3 h w"]]
    """Pixels of all frames, as each tower reads them."""
    chunk_size: int = 16
    key: str = "random pixels"
    instruction: str = ""
    timing: Timing | None = None

    def chunks(self) -> Iterator[Frames]:
        """Hand out the pixels, a frame a second."""
        for part in torch.split(torch.arange(len(next(iter(self.pixels.values())))), self.chunk_size):
            made = {spec: pixels[part[0] : part[-1] + 1] for spec, pixels in self.pixels.items()}
            yield Frames.of_pixels(made, part.float())


def random_pixels(specs: Sequence[ResizedPixels], frames: int, device: torch.device, dtype: torch.dtype) -> PixelVideo:
    """A video of noise, in the size that each tower reads."""
    return PixelVideo({spec: torch.randn(frames, 3, *spec.size, device=device, dtype=dtype) for spec in specs})


@dataclass(frozen=True)
class FirstToken:
    """One run, from pixels to the first token; its cost has the peak memory, weights included."""

    seconds: float
    cost: SampleCost


def first_tokens(
    vlm: VideoVLM, methods: Mapping[str, Method], video: Video, rounds: int, warm: int = 1
) -> dict[str, list[FirstToken]]:
    """Run all methods in turn, `rounds` times after `warm` rounds that do not count; every second round is reversed.

    A file in the place of pixels is decoded anew for each run.
    """
    found: dict[str, list[FirstToken]] = {name: [] for name in methods}
    for number in range(warm + rounds):
        for name in list(methods)[:: -1 if number % 2 else 1]:
            methods[name].encoder.forget_texts()
            begin = now(vlm.device)
            made = answer(vlm, methods[name], [video], QUESTION, GenerationOptions(max_new_tokens=1))
            if number >= warm:
                found[name].append(FirstToken(now(vlm.device) - begin, made.cost))
    return found


def median_cost(runs: Sequence[FirstToken]) -> SampleCost:
    """The cost of the last run, with the median over all runs of each stage's seconds."""
    cost = runs[-1].cost
    seconds = {stage: median(run.cost.seconds[stage] for run in runs) for stage in cost.seconds}
    return SampleCost.from_dict({**cost.to_dict(), "seconds": seconds})


def preprocess_seconds(spec: PixelSpec, frames: int = 8, height: int = 720) -> float:
    """Measure the seconds to resize and normalize one 16:9 frame on the CPU."""
    rgb = torch.randint(0, 255, (frames, height, height * 16 // 9, 3), dtype=torch.uint8)
    begin = time.perf_counter()
    Frames(rgb, torch.arange(float(frames))).pixels(spec)
    return (time.perf_counter() - begin) / frames
