"""Frames of training videos as the frozen part of a predictor sees them, kept on disk."""

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.labels import FrameCountError, labels_of
from lmms_kvtp.predictor.viewers import Viewer
from lmms_kvtp.video.frames import VideoError
from lmms_kvtp.video.load import load_video

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenVideo:
    """An example with its frames."""

    example: Example
    image: Float[Tensor, "T *seen"]
    """What a `Viewer` keeps of each frame; pages of a file that are read when they are needed."""
    times: Float[Tensor, " T"]
    """Seconds."""

    def labels(self) -> Float[Tensor, "q T"]:
        """Relevance of each frame to each question.

        Raises:
            FrameCountError: a question has scores of another number of frames.
        """
        return labels_of(self.example, self.times)


@dataclass(frozen=True)
class FeatureCache:
    """A folder with one file for a video, a viewer and a choice of frames."""

    viewer: Viewer
    folder: Path

    def see(self, examples: Iterable[Example]) -> tuple[list[SeenVideo], list[str]]:
        """The examples with their frames, and a line for each video that cannot be read or does not fit its scores."""
        seen, unusable = [], []
        for example in tqdm(list(examples), "frames", unit="video"):
            try:
                video = self._see(example)
                video.labels()
                seen.append(video)
            except (VideoError, FrameCountError) as error:
                unusable.append(f"{example.source}: {error}")
        if unusable:
            logger.warning("left out %d videos that cannot be used; the first: %s", len(unusable), unusable[0])
        return seen, unusable

    def _see(self, example: Example) -> SeenVideo:
        path = self.folder / f"{Path(example.source).stem}-{self._digest(example)}.safetensors"
        try:
            stored = load_file(path)
        except (SafetensorError, OSError):  # not there yet, or half-written by a killed process
            stored = self._view(example)
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")
            save_file(stored, part)
            part.replace(path)
        return SeenVideo(example, stored["image"], stored["times"])

    def _view(self, example: Example) -> dict[str, Tensor]:
        image, times = [], []
        for frames in load_video(example.source, example.frames).chunks():
            image.append(self.viewer.view(frames).cpu())
            times.append(frames.times.float())
        return {"image": torch.cat(image).contiguous(), "times": torch.cat(times)}

    def _digest(self, example: Example) -> str:
        """Changes with the viewer, its weights, the video and the choice of frames."""
        files = [Path(example.source), *self.viewer.files]
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
        return hashlib.sha256(repr((self.viewer.key, example.frames, stats)).encode()).hexdigest()[:16]
