"""A video as towers see it: everything that does not depend on the question, in one pass over its frames."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from lmms_kvtp.cost.flops import projector_flops, vision_flops
from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.method import Method
from lmms_kvtp.pruners.parts.packing import refuse_broken
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens
from lmms_kvtp.video.frames import Frames, Video
from lmms_kvtp.vlms.base import VideoVLM


@dataclass(frozen=True)
class Encoded:
    """A video as towers see it: everything that does not depend on the question."""

    tokens: FrameTokens
    features: FrameFeatures
    instruction: str
    seconds: dict[str, float]
    flops: dict[str, int] = field(default_factory=dict)
    peak_bytes: int | None = None
    whole: PackedTokens | None = None
    """Of an image in tiles, which no method prunes: all of it, laid out."""


def encode(vlm: VideoVLM, method: Method, video: Video) -> Encoded:
    """Run the model's tower and the image-text encoder over a video, chunk by chunk, in one pass over its frames."""
    [encoded] = encode_once(vlm, [method], video)
    return encoded


@torch.inference_mode()
def encode_once(vlm: VideoVLM, methods: Sequence[Method], video: Video) -> list[Encoded]:
    """The same for several methods, which share the frames, the model's tower, and equal encoders.

    Features then hold what any of the methods needs, and the seconds of an encoder are for all of that; operations
    are those of each method alone.
    """
    needs: dict[FrameEncoder, frozenset[str]] = {}
    for method in methods:
        needs[method.encoder] = needs.get(method.encoder, frozenset()) | method.needs
    meter, own = Meter(vlm.device), {encoder: Meter(vlm.device) for encoder in needs}
    tokens: list[FrameTokens] = []
    features: dict[FrameEncoder, list[FrameFeatures]] = {encoder: [] for encoder in needs}
    chunks = video.chunks()
    while (frames := _next(chunks, meter)) is not None:
        with meter.stage("preprocess"):
            frames.pixels(vlm.pixel_spec, vlm.device)
        count = len(frames.times)
        with meter.stage("vision", vision_flops(vlm.vision, count)):
            seen = vlm.look(frames)
            tokens.append(vlm.project(seen))
        frames = replace(frames, tower=seen)
        for encoder, wanted in needs.items():
            with own[encoder].stage("encoder", encoder.flops(count, wanted, vlm.pool) if wanted else 0):
                part = encoder.encode(frames, wanted, vlm.pool) if wanted else FrameFeatures(times=frames.times)
            features[encoder].append(part)
        del frames, seen  # before the next chunk is decoded
    joined = FrameTokens(torch.cat([part.embeds for part in tokens]), vlm.pool.grid, video.key)
    refuse_broken(joined)
    # an encoder may have a device of its own; pruners hold features against tokens
    described = {encoder: FrameFeatures.cat(parts).to(joined.embeds.device) for encoder, parts in features.items()}
    meter.flops["projector"] = projector_flops(vlm.vision, vlm.llm, joined.num_frames)
    visuals = []
    for method in methods:
        spent, seconds, flops = own[method.encoder], dict(meter.seconds), dict(meter.flops)
        if method.needs:
            alone = method.encoder.flops(joined.num_frames, method.needs, vlm.pool)
            seconds |= spent.seconds
            flops["encoder"] = spent.flops.get("encoder", 0) if alone is None else alone
        seen_by = described[method.encoder]
        visuals.append(Encoded(joined, seen_by, video.instruction, seconds, flops, spent.peak_bytes))
    return visuals


def _next(chunks: Iterator[Frames], meter: Meter) -> Frames | None:
    """Decode the next frames; where another process does, its work counts as such, and the time here as waiting."""
    start = time.perf_counter()
    frames = next(chunks, None)
    passed = time.perf_counter() - start
    spent = frames.spent if frames else {}
    for stage, seconds in spent.items():
        meter.add(stage, seconds)
    meter.add("waiting" if "waiting" in meter.seconds else "decode", passed)
    return frames
