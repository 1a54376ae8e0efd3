"""Frames of training videos as the frozen vision tower sees them, kept on disk."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.grid import GridPool
from lmms_kvtp.scorers.oracle import span_scores
from lmms_kvtp.training.predictor.examples import Example
from lmms_kvtp.types import VideoError
from lmms_kvtp.video import load_video

logger = logging.getLogger(__name__)
IMAGE = frozenset({"image"})


@dataclass(frozen=True)
class SeenVideo:
    """An example with its frames."""

    example: Example
    image: Float[Tensor, "T E"]
    times: Float[Tensor, " T"]
    """Seconds."""

    def labels(self) -> Float[Tensor, "q T"]:
        """Relevance of each frame to each question."""
        return torch.stack([span_scores(question.spans or (), self.times) for question in self.example.questions])


@dataclass(frozen=True)
class FeatureCache:
    """A folder of image embeddings: one file for a video, an encoder and a choice of frames."""

    encoder: Siglip
    folder: Path

    def see(self, examples: Iterable[Example]) -> tuple[list[SeenVideo], list[str]]:
        """The examples with their frames, and a line for each video that cannot be read."""
        seen, unreadable = [], []
        for example in tqdm(list(examples), "frames", unit="video"):
            try:
                seen.append(self._see(example))
            except VideoError as error:
                unreadable.append(str(error))
        if unreadable:
            logger.warning("left out %d videos that cannot be read; the first: %s", len(unreadable), unreadable[0])
        return seen, unreadable

    def _see(self, example: Example) -> SeenVideo:
        path = self.folder / f"{Path(example.source).stem}-{self._digest(example)}.safetensors"
        try:
            stored = load_file(path)
        except (SafetensorError, OSError):  # not there yet, or half-written by a killed process
            stored = self._encode(example)
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")
            save_file(stored, part)
            part.replace(path)
        return SeenVideo(example, stored["image"], stored["times"])

    def _encode(self, example: Example) -> dict[str, Tensor]:
        pool = GridPool("average", self.encoder.grid)
        chunks = load_video(example.source, example.frames).chunks()
        described = [self.encoder.encode(frames, IMAGE, pool) for frames in chunks]
        image = torch.cat([part.image.cpu() for part in described if part.image is not None])
        return {"image": image, "times": torch.cat([part.times.float() for part in described])}

    def _digest(self, example: Example) -> str:
        """Changes with the encoder, its weights, the video and the choice of frames."""
        files = [Path(example.source), *_weights(self.encoder)]
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return hashlib.sha256(repr((self.encoder, example.frames, stats)).encode()).hexdigest()[:16]


def _weights(encoder: Siglip) -> Iterator[Path]:
    path = encoder.companion("model.safetensors")
    if path is not None:
        yield path
