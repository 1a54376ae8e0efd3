"""What the frozen part of a predictor says of frames: the form in which the feature cache keeps them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.types import GridPool
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.llava_video import LlavaVideo

IMAGE = frozenset({"image"})


class Viewer(ABC):
    """Looks at frames the way that one kind of training needs."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Names all settings that decide what is seen."""

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Weights that decide what is seen."""

    @abstractmethod
    def view(self, frames: Frames) -> Float[Tensor, "T *seen"]:
        """What is kept of some frames."""


@dataclass(frozen=True)
class Embeddings(Viewer):
    """Image embeddings of a SigLIP: 4 kB a frame of so400m."""

    encoder: Siglip

    @property
    def key(self) -> str:
        """All settings of the encoder."""
        return repr(self.encoder)

    @property
    def files(self) -> Sequence[Path]:
        """The encoder's weights."""
        return _weights(self.encoder)

    def view(self, frames: Frames) -> Float[Tensor, "T E"]:
        """Run the vision tower."""
        image = self.encoder.encode(frames, IMAGE, GridPool("average", self.encoder.grid)).image
        assert image is not None
        return image


@dataclass(frozen=True)
class Pixels(Viewer):
    """Resized frames in half precision, for training of the vision tower itself: 0.9 MB a frame of 384 x 384."""

    encoder: Siglip

    @property
    def key(self) -> str:
        """The encoder's preprocessing."""
        return repr(self.encoder.pixel_spec)

    @property
    def files(self) -> Sequence[Path]:
        """None: pixels depend on no weights."""
        return ()

    def view(self, frames: Frames) -> Float[Tensor, "T 3 h w"]:
        """Resize and normalise."""
        return frames.pixels(self.encoder.pixel_spec).half()


@dataclass(frozen=True)
class Patches(Viewer):
    """What a language model's own tower saw, pooled to the grid of its tokens: 0.45 MB a frame of LLaVA-Video-7B."""

    vlm: LlavaVideo

    @property
    def key(self) -> str:
        """All settings of the model."""
        return repr(self.vlm.describe())

    @property
    def files(self) -> Sequence[Path]:
        """The model's weights, where it is a folder."""
        folder = Path(self.vlm.name)
        return sorted(folder.glob("*.safetensors")) if folder.is_dir() else ()

    def view(self, frames: Frames) -> Float[Tensor, "T N C"]:
        """Run the tower and pool."""
        return self.vlm.pool(self.vlm.look(frames).float()).half()


def _weights(encoder: Siglip) -> Sequence[Path]:
    path = encoder.companion("model.safetensors")
    return () if path is None else (path,)
