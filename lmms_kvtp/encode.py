"""Once per video: the model's tower and the image-text encoder, in one pass over the frames."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.own import OwnTower, encoder_flops
from lmms_kvtp.method import Method
from lmms_kvtp.pruners.parts.packing import refuse_broken
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens, Timing
from lmms_kvtp.video.frames import Frames, Video
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.tiles import StillImage


@dataclass(frozen=True)
class Encoded:
    """Everything about a video or an image that does not depend on the question, as one method reads it."""

    tokens: FrameTokens
    features: FrameFeatures
    instruction: str
    """Text about sampling that goes before the question; empty for none."""
    seconds: dict[str, float]
    """Seconds by stage."""
    flops: dict[str, int] = field(default_factory=dict)
    """Operations by stage."""
    peak_bytes: int | None = None
    patched: int = 0
    """Frames that are damaged in their file, and were seen as a codec patches them."""
    whole: PackedTokens | None = None
    """An image in tiles, laid out whole, since no method prunes it; None for videos."""


def encode(vlm: VideoVLM, method: Method, video: Video) -> Encoded:
    """Encode a video for one method; see `encode_once`."""
    [encoded] = encode_once(vlm, [method], video)
    return encoded


@torch.inference_mode()
def encode_once(vlm: VideoVLM, methods: Sequence[Method], video: Video) -> list[Encoded]:
    """Encode a video for several methods, which share the frames, the model's tower, and equal encoders.

    Features hold what any of the methods needs, and the seconds of an encoder are for all of that; operations are
    those of each method alone.

    VideoError where the video cannot be read.
    """
    needs: dict[FrameEncoder, frozenset[str]] = {}
    for method in methods:
        needs[method.encoder] = needs.get(method.encoder, frozenset()) | method.needs
    own_tower = any(isinstance(encoder, OwnTower) and wanted for encoder, wanted in needs.items())
    # the model's stages are shared by all methods; an encoder's are charged only to those that use it
    meter, own = Meter(vlm.device), {encoder: Meter(vlm.device) for encoder in needs}
    tokens: list[FrameTokens] = []
    times: list[Tensor] = []
    features: dict[FrameEncoder, list[FrameFeatures]] = {encoder: [] for encoder in needs}
    spec = vlm.spec(len(video.timing.indices) if video.timing else 0)
    chunks, count, patched, pool = video.chunks(), 0, 0, None
    while (frames := _next(chunks, meter)) is not None:
        if count % vlm.frames_per_step:
            raise ValueError(
                f"{vlm.name} reads {vlm.frames_per_step} frames at once; set chunk_size to a multiple of it"
            )
        with meter.stage("preprocess"):
            pool = vlm.pooling(*frames.pixels(spec, vlm.device).shape[-2:])
        count, patched = count + len(frames.times), patched + frames.patched
        times.append(frames.times)
        steps = -(-len(frames.times) // vlm.frames_per_step)
        flops_of = partial(encoder_flops, pool=pool, width=vlm.vision.hidden, steps=steps)
        tower, projector = vlm.vision_flops(pool, steps)
        with meter.stage("vision", tower):
            with vlm.watch_tower() if own_tower else nullcontext([]) as inside:
                made, seen = vlm.look(frames, spec)
            tokens.append(made)
        meter.flops["projector"] = meter.flops.get("projector", 0) + projector
        frames = frames.seen(seen, inside)
        for encoder, wanted in needs.items():
            with own[encoder].stage("encoder", flops_of(encoder, len(frames.times), wanted) if wanted else 0):
                part = encoder.encode(frames, wanted, pool) if wanted else FrameFeatures(times=frames.times)
            features[encoder].append(part.steps(steps) if len(part.times) > steps else part)
        del frames, seen, inside, made  # before the next chunk is decoded
    joined = FrameTokens.cat(tokens, video.key, video.timing or Timing.of(torch.cat(times)))
    refuse_broken(joined)
    # an encoder may have a device of its own; pruners hold features against tokens
    described = {encoder: FrameFeatures.cat(parts).to(joined.embeds.device) for encoder, parts in features.items()}
    assert pool is not None, "a video has frames"
    flops_of = partial(encoder_flops, pool=pool, width=vlm.vision.hidden, steps=joined.num_frames)
    visuals = []
    for method in methods:
        spent, seconds, flops = own[method.encoder], dict(meter.seconds), dict(meter.flops)
        if method.needs:
            alone = flops_of(method.encoder, count, method.needs)
            seconds |= spent.seconds
            flops["encoder"] = spent.flops.get("encoder", 0) if alone is None else alone
        seen_by = described[method.encoder]
        visuals.append(Encoded(joined, seen_by, video.instruction, seconds, flops, spent.peak_bytes, patched))
    return visuals


def _next(chunks: Iterator[Frames], meter: Meter) -> Frames | None:
    """Decode the next frames; where another process does, its work counts as such, and the time here as waiting."""
    start = time.perf_counter()
    frames = next(chunks, None)
    passed = time.perf_counter() - start
    spent = frames.spent if frames else {}
    for stage, seconds in spent.items():
        meter.add(stage, seconds)
    meter.add("waiting" if "waiting" in meter.added else "decode", passed)
    return frames


@torch.inference_mode()
def encode_still(vlm: VideoVLM, still: StillImage) -> Encoded:
    """Encode an image in the tiles of the model's own recipe; no method prunes what comes of it.

    Its tiles are no frames, and no encoder's features lie on their grid. It counts as one frame, all of whose tokens
    are kept.

    ValueError where the model has no way of its own with images.
    """
    if vlm.tiling is None:
        raise ValueError(
            f"images=tiles: {vlm.name} has no way of its own with images: its config.json wants image_aspect_ratio "
            "anyres_max_N, image_grid_pinpoints in multiples of the tower's image, and a mm_patch_merge_type with "
            "unpad; images=frames shows images as the frames of a video"
        )
    meter = Meter(vlm.device)
    with meter.stage("preprocess"):
        pieces = vlm.tiling.pieces(still)
        frames = Frames(pieces, torch.zeros(len(pieces)))
        pool = vlm.pooling(*frames.pixels(vlm.spec(len(pieces)), vlm.device).shape[-2:])
    tower, projector = vlm.vision_flops(pool, len(pieces))
    with meter.stage("vision", tower):
        packed = vlm.tiling.pack(still, vlm.unpooled(frames))
    meter.flops["projector"] = projector
    tokens = FrameTokens(packed.embeds[None], packed.grid, still.key)
    refuse_broken(tokens)
    nothing = FrameFeatures(times=torch.zeros(1))
    return Encoded(tokens, nothing, "", dict(meter.seconds), dict(meter.flops), whole=packed)
