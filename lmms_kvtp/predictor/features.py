"""Frames of training videos as the frozen part of a predictor encodes them, kept on disk."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.files import write_whole
from lmms_kvtp.predictor.examples import Example, FrameCountError, labels_of
from lmms_kvtp.types import GridPool
from lmms_kvtp.video.frames import Frames, VideoError
from lmms_kvtp.video.load import load_video
from lmms_kvtp.vlms.llava_video import LlavaVideo

logger = logging.getLogger(__name__)

IMAGE = frozenset({"image"})
WHOLE = GridPool("average", (1, 1))
"""Pooling of a frame that is seen as a whole."""


@dataclass(frozen=True)
class Viewer:
    """Encodes frames the way that one kind of training needs."""

    key: str
    """Text of all settings that decide what `view` returns."""
    files: Sequence[Path]
    """Files of the weights that decide what `view` returns."""
    view: Callable[[Frames], Float[Tensor, "T *seen"]]
    """Function that encodes some frames into what is kept of them."""
    pool: GridPool = WHOLE
    """Pooling of a frame's patches."""


def embeddings(encoder: Siglip) -> Viewer:
    """Image embeddings of a SigLIP: 4 kB a frame of so400m."""

    def view(frames: Frames) -> Float[Tensor, "T E"]:
        image = encoder.encode(frames, IMAGE, WHOLE).image
        assert image is not None
        return image

    weights = encoder.companion("model.safetensors")
    return Viewer(repr(encoder), [weights] if weights else [], view)


def pixels(encoder: Siglip) -> Viewer:
    """Resized frames in half precision, for training of the vision tower itself: 0.9 MB a frame of 384 x 384."""
    spec = encoder.pixel_spec
    return Viewer(repr(spec), [], lambda frames: frames.pixels(spec).half())


def patches(vlm: LlavaVideo) -> Viewer:
    """Output of a vision-language model's own tower, pooled to the grid of its tokens: 0.45 MB a frame at 7B."""
    return Viewer(repr(vlm.describe()), vlm.files, lambda frames: vlm.pool(vlm.see(frames).float()).half(), vlm.pool)


@dataclass(frozen=True)
class CachedVideo:
    """An example with its encoded frames."""

    example: Example
    image: Float[Tensor, "T *seen"]
    """View of each frame; pages of a file that are read when they are needed."""
    times: Float[Tensor, " T"]
    """Seconds of the frames."""

    def labels(self) -> Float[Tensor, "q T"]:
        """Relevance of each frame to each question; raises as `labels_of` does."""
        return labels_of(self.example, self.times)


@dataclass(frozen=True)
class FeatureCache:
    """A folder with one file for each video, viewer and choice of frames."""

    viewer: Viewer
    folder: Path

    def encode(self, examples: Iterable[Example]) -> tuple[list[CachedVideo], list[str]]:
        """Encode what the folder does not have; returns a line as well for each video that cannot be used.

        Such a video cannot be read, or does not fit its scores.
        """
        seen, unusable = [], []
        for example in tqdm(list(examples), "frames", unit="video"):
            try:
                video = self._encode(example)
                video.labels()
                seen.append(video)
            except (VideoError, FrameCountError) as error:
                unusable.append(f"{example.source}: {error}")
        if unusable:
            logger.warning("left out %d videos that cannot be used; the first: %s", len(unusable), unusable[0])
        return seen, unusable

    def _encode(self, example: Example) -> CachedVideo:
        path = self.folder / f"{Path(example.source).stem}-{self._digest(example)}.safetensors"
        try:
            stored = load_file(path)
        except (SafetensorError, OSError):  # not there yet, or half-written by a killed process
            image, times = [], []
            for frames in load_video(example.source, example.frames).chunks():
                image.append(self.viewer.view(frames).cpu())
                times.append(frames.times.float())
            stored = {"image": torch.cat(image).contiguous(), "times": torch.cat(times)}
            write_whole(path, save(stored))
        return CachedVideo(example, stored["image"], stored["times"])

    def _digest(self, example: Example) -> str:
        """Hash the viewer, its weights, the video and the choice of frames."""
        files = [Path(example.source), *self.viewer.files]
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
        return hashlib.sha256(repr((self.viewer.key, example.frames, stats)).encode()).hexdigest()[:16]
