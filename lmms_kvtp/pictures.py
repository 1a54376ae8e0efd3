"""Images that are no frames of a video: from an image to what stands for it in the prompt."""

import torch

from lmms_kvtp.cost.flops import projector_flops, vision_flops
from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encode import Encoded
from lmms_kvtp.pruners.parts.packing import refuse_broken
from lmms_kvtp.types import FrameFeatures, FrameTokens
from lmms_kvtp.video.frames import Frames, Picture
from lmms_kvtp.vlms.base import VideoVLM


@torch.inference_mode()
def encode_picture(vlm: VideoVLM, picture: Picture) -> Encoded:
    """Encode an image as the model's own way with images has it; no method prunes what comes of it.

    Its tiles are no frames, and no encoder's features lie on their grid. It counts as one frame, all of whose tokens
    are kept.

    Raises:
        ValueError: the model has no way of its own with images.
    """
    if vlm.tiling is None:
        raise ValueError(
            f"images=tiles: {vlm.name} has no way of its own with images: its config.json wants image_aspect_ratio "
            "anyres_max_N, image_grid_pinpoints in multiples of the tower's image, and a mm_patch_merge_type with "
            "unpad; images=frames shows images as the frames of a video"
        )
    meter = Meter(vlm.device)
    with meter.stage("preprocess"):
        pieces = vlm.tiling.pieces(picture)
        frames = Frames(pieces, torch.zeros(len(pieces)))
        frames.pixels(vlm.pixel_spec, vlm.device)
    with meter.stage("vision", vision_flops(vlm.vision, len(pieces))):
        packed = vlm.tiling.pack(picture, vlm.unpooled(vlm.look(frames)))
    meter.flops["projector"] = projector_flops(vlm.vision, vlm.llm, len(pieces))
    tokens = FrameTokens(packed.embeds[None], packed.grid, picture.key)
    refuse_broken(tokens)
    nothing = FrameFeatures(times=torch.zeros(1))
    return Encoded(tokens, nothing, "", dict(meter.seconds), dict(meter.flops), whole=packed)
