"""Encodes what a question is about: videos, or images in the model's own way."""

from collections.abc import Sequence

from lmms_kvtp.encode import Encoded, encode_once
from lmms_kvtp.method import Method
from lmms_kvtp.pictures import encode_picture
from lmms_kvtp.run.asks import Ask
from lmms_kvtp.run.options import Images
from lmms_kvtp.video.ahead.ahead import Ahead, videos_of
from lmms_kvtp.video.cache import FrameCache
from lmms_kvtp.video.sampling import FrameOptions
from lmms_kvtp.vlms.base import VideoVLM
from lmms_kvtp.vlms.tiles import still_images


def look_at(
    vlm: VideoVLM,
    methods: Sequence[Method],
    ask: Ask,
    images: Images,
    frames: FrameOptions,
    ahead: Ahead | None,
    cache: FrameCache | None,
) -> list[list[Encoded]]:
    """Encode each visual of a question, for each of some methods.

    Args:
        vlm: the model.
        methods: that will prune what comes of it; images in tiles are the same for all.
        ask: the question.
        images: `tiles` for the model's own way with images, where all visuals are images.
        frames: which frames of videos.
        ahead: where videos are decoded, if not here.
        cache: of resized frames.

    Raises:
        VideoError: a video or image cannot be read.
        ValueError: visuals are of several kinds, or the model has no way of its own with images.
    """
    pictures = still_images(ask.load(), " ".join(ask.visuals)) if images == "tiles" else []
    if pictures:
        return [[encode_picture(vlm, picture)] * len(methods) for picture in pictures]
    return [encode_once(vlm, methods, video) for video in videos_of(ask.visuals, ask.load, frames, ahead, cache)]
