"""What a machine has, and what a run would need of it."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

from lmms_kvtp.cost.flops import MergedShape
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.forecast.models import Sizes
from lmms_kvtp.types import GridPool
from lmms_kvtp.vlms.decoding import now

UTILIZATION = 0.4
"""Share of the rate of large matrix products that a whole model reaches; hours are as rough as this number."""
VISION_BATCH = 16
"""Number of frames that the tower sees at once."""
SHARED = ("vision", "projector", "encoder")
"""Stages that the questions on one video share."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the device."""

    weights: int
    """Weights of the vision-language model."""
    encoder: int
    """Weights of the image-text model."""
    visual: int
    """Tokens of a video, twice, because they are joined from chunks."""
    cache: int
    """Keys and values of the longest prompt."""
    work: int
    """Largest intermediate results."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.encoder + self.visual + self.cache + self.work


def memory(spec: Sizes, pool: GridPool, cost: SampleCost, element: int, encoder_parameters: int = 0) -> Memory:
    """Bytes that a run holds at its peak, with SDPA or flash attention.

    `pool` is that of its patches, `cost` a forecast of the longest prompt, `element` the bytes of a number, and
    `encoder_parameters` the number of weights of the image-text model.
    """
    llm, n = spec.llm, cost.prompt_tokens + cost.output_tokens
    copies = spec.vision.mergers if isinstance(spec.vision, MergedShape) else 1
    patches = VISION_BATCH // spec.frames_per_step * math.prod(pool.patches)
    tower = 3 * patches * max(spec.vision.intermediate, llm.hidden) * element
    return Memory(
        weights=spec.parameters * element,
        encoder=encoder_parameters * element,
        visual=2 * cost.tokens_before * copies * llm.hidden * element,
        cache=2 * llm.layers * llm.kv_heads * llm.head_dim * n * element,
        work=max(tower, 3 * n * llm.intermediate * element),
    )


def hours(cost: SampleCost, videos: int, questions: int, rate: float, video_seconds: float) -> float:
    """Hours of a run, with shared stages once per video and the others once per question.

    `cost` is a forecast of one answer, `rate` the operations a second that the device sustains in large matrix
    products, and `video_seconds` the seconds to read one video.
    """
    shared = sum(cost.flops.get(stage, 0) for stage in SHARED)
    own = cost.flops_total - shared
    return (videos * (shared / (rate * UTILIZATION) + video_seconds) + questions * own / (rate * UTILIZATION)) / 3600


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Measure the operations a second of large linear layers: the best of several, as other work only takes away."""
    side = 4096 if device.type == "cuda" else 1024
    weights, inputs = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, spent, tries = 0.0, 0.0, 0
    while spent < seconds or tries < 5:
        begin = now(device)
        F.linear(inputs, weights)
        took = now(device) - begin
        best, spent, tries = max(best, 2 * side**3 / took), spent + took, tries + 1
    return best


def device_memory(device: torch.device) -> int:
    """Free bytes of a GPU, or else of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)  # counts pages that only cache files as free


def free_disk(path: Path) -> int:
    """Bytes that can be written at `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
