"""The language model's own vision tower as image-text encoder: no second pass over the frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.device import place
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.parts.predictor import TINY_SHARED, predictor_folder
from lmms_kvtp.encoders.parts.text_side import TextSide, load_text_side
from lmms_kvtp.encoders.parts.tower_head import TowerHead, load_tower_head
from lmms_kvtp.shipped import TINY
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.video.frames import Frames


@dataclass(frozen=True)
class TowerEncoder(FrameEncoder):
    """Reads the tower that the model runs anyway through a light trained head; the text side was trained with the head.

    Patches are pooled to the language model's grid before the head reads them.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"image", "probe_attention", "keys"})
    training_free: ClassVar[bool] = False
    reads_tower: ClassVar[bool] = True

    pretrained: str = TINY
    """Folder that `lmms-kvtp train predictor --shared MODEL` wrote, for this very model; `tiny`: the shipped one of the
    embedded model. A folder of that name is given as `./tiny`."""
    device: str | None = None
    """Where head and text side run; None: on the GPU if there is one."""

    @torch.no_grad()
    def encode(self, frames: Frames, needs: frozenset[str], pool: GridPool) -> FrameFeatures:
        """Compute the fields in `needs` from `frames.tower`.

        ValueError where `needs` holds something else, the frames have not been through the model's tower, or the
        checkpoint is missing or of another model.
        """
        self.check(needs)
        if not needs:
            return FrameFeatures(times=frames.tower_times)
        if frames.tower is None:
            raise ValueError("encoder=tower reads what the model's own tower saw of the frames; run that first")
        return self.describe(pool(frames.tower.float()), frames.tower_times, needs)

    @torch.no_grad()
    def describe(
        self, patches: Float[Tensor, "T N C"], times: Float[Tensor, " T"], needs: frozenset[str]
    ) -> FrameFeatures:
        """Compute the fields in `needs` from pooled patches."""
        if patches.shape[2] != self.head.shape.width:
            raise ValueError(
                f"encoder.pretrained={self.pretrained} was trained on a tower of width {self.head.shape.width}, this "
                f"model's has {patches.shape[2]}; train one with `lmms-kvtp train predictor --shared MODEL`, and give "
                "its folder"
            )
        image, attention, keys = self.head.pool(patches.to(self.head.probe.device, torch.float32))
        found = {"image": image, "probe_attention": attention, "keys": keys}
        return FrameFeatures(times=times, **{name: found[name] for name in needs})

    def embed_text(self, text: str) -> Float[Tensor, "_ E"]:
        """Embed one text, not normalised: a row for each piece that the text side can read."""
        return self.text_side.embed_text(text)

    def logits(self, image: Float[Tensor, "T E"], text: Float[Tensor, "q F"]) -> Float[Tensor, "q T"]:
        """Compute cosines with the learned scale and bias."""
        return self.text_side.logits(image, text)

    def flops(self, num_frames: int, needs: frozenset[str], pool: GridPool) -> int:
        """Count the head on each frame's pooled patches; the tower itself runs anyway."""
        rows, columns = pool.grid
        return self.head.flops(num_frames, rows * columns) if needs else 0

    def relevance_flops(self, num_frames: int, texts: Sequence[str], views: int = 1) -> int:
        """Count text side and cosines, with the fusion head's share of three views."""
        return self.text_side.relevance_flops(num_frames, texts, views)

    def companion(self, name: str) -> Path | None:
        """Find a file in the checkpoint's folder."""
        path = self._folder / name
        return path if path.is_file() else None

    @cached_property
    def head(self) -> TowerHead:
        """Image side, loaded on first use."""
        return load_tower_head(self._folder).to(place(self.device, "float32")[0])

    @cached_property
    def text_side(self) -> TextSide:
        """Text side, loaded on first use."""
        return load_text_side(self._folder, place(self.device, "float32")[0])

    @cached_property
    def _folder(self) -> Path:
        """Folder of the checkpoint; the files of a shipped one are checked."""
        return predictor_folder(TINY_SHARED if self.pretrained == TINY else self.pretrained, "encoder.pretrained")
