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
from lmms_kvtp.types import GridPool, step_means
from lmms_kvtp.video.frames import Frames, VideoError
from lmms_kvtp.video.load import load_video
from lmms_kvtp.vlms.base import VideoVLM

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
    view: Callable[[Frames, int], Float[Tensor, "S *seen"]]
    """Function that encodes some frames, of a video with so many, into what is kept of them or of their steps."""


def embeddings(encoder: Siglip) -> Viewer:
    """Image embeddings of a SigLIP: 4 kB a frame of so400m."""

    def view(frames: Frames, count: int) -> Float[Tensor, "T E"]:
        image = encoder.encode(frames, IMAGE, WHOLE).image
        assert image is not None
        return image

    weights = encoder.companion("model.safetensors")
    return Viewer(repr(encoder), [weights] if weights else [], view)


def pixels(encoder: Siglip) -> Viewer:
    """Resized frames in half precision, for training of the vision tower itself: 0.9 MB a frame of 384 x 384."""
    spec = encoder.pixel_spec
    return Viewer(repr(spec), [], lambda frames, count: frames.pixels(spec).half())


def patches(vlm: VideoVLM) -> Viewer:
    """Output of a vision-language model's own tower, pooled to the grid of its tokens: 0.45 MB a frame at 7B."""

    def view(frames: Frames, count: int) -> Float[Tensor, "S N C"]:
        spec = vlm.spec(count)
        return vlm.pooling(*frames.pixels(spec, vlm.device).shape[-2:])(vlm.look(frames, spec)[1].float()).half()

    return Viewer(repr(vlm.describe()), vlm.files, view)


@dataclass(frozen=True)
class CachedVideo:
    """An example with its encoded frames."""

    example: Example
    image: Float[Tensor, "S *seen"]
    """View of each frame, or step of frames; pages of a file that are read when they are needed."""
    sampled: Float[Tensor, " T"]
    """Seconds of the frames."""

    @property
    def times(self) -> Float[Tensor, " S"]:
        """Seconds of what was seen: of frames, or the middle of steps."""
        return step_means(self.sampled, len(self.image))

    def labels(self) -> Float[Tensor, "q S"]:
        """Relevance of each frame, or the mean of a step, to each question; raises as `labels_of` does."""
        return step_means(labels_of(self.example, self.sampled).T, len(self.image)).T


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
            sampled = load_video(example.source, example.frames)
            for frames in sampled.chunks():
                image.append(self.viewer.view(frames, len(sampled.timing.indices)).cpu())
                times.append(frames.times.float())
            stored = {"image": torch.cat(image).contiguous(), "times": torch.cat(times)}
            write_whole(path, save(stored))
        return CachedVideo(example, stored["image"], stored["times"])

    def _digest(self, example: Example) -> str:
        """Hash the viewer, its weights, the video and the choice of frames."""
        files = [Path(example.source), *self.viewer.files]
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
        return hashlib.sha256(repr((self.viewer.key, example.frames, stats)).encode()).hexdigest()[:16]
