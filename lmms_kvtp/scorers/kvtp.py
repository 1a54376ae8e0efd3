"""KVTP's relevance predictor: similarity of frame and question, with the context of clip and video."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.fusion import SETTINGS, WEIGHTS, FusionHead
from lmms_kvtp.refine import question_text
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.types import FrameFeatures, Question

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KVTP(FrameScorer):
    """Image-text logits of a frame, of its clip and of the video, weighed by the trained context fusion head.

    The image-text model itself is the encoder: give its fine-tuned checkpoint as `encoder.pretrained`.

    Source: KVTP (arXiv 2503.10742), section 4.1. Its release trains the head and leaves it out at inference:
    `fusion=false`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    paper: ClassVar[str] = "KVTP, arXiv 2503.10742"

    fusion: bool = True
    """Apply the head, as the paper describes; false scores frames alone."""
    checkpoint: str | None = None
    """Folder with fusion.json and fusion.safetensors; none: beside the encoder's weights, or the untrained head."""
    clip_size: int | None = None
    """Frames of a clip; none: as in the checkpoint."""
    local_weight: float | None = None
    """theta of eq. 10; none: as in the checkpoint."""
    global_weight: float | None = None
    """phi of eq. 10; none: as in the checkpoint."""

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Compare each frame in its context with the question.

        Raises:
            ValueError: the question has no text, or the checkpoint holds no fusion head.
        """
        assert features.image is not None
        text = encoder.encode_text([question_text(question)])
        if not self.fusion:
            return encoder.logits(features.image, text).amax(dim=0)
        head = self.head(encoder)
        return head.mix([encoder.logits(view, text) for view in head.views(features.image)]).amax(dim=0)

    def head(self, encoder: FrameEncoder) -> FusionHead:
        """The fusion head that goes with `encoder`, read once."""
        if encoder not in self._heads:
            asked: dict[str, Any] = {
                "clip_size": self.clip_size,
                "local_weight": self.local_weight,
                "global_weight": self.global_weight,
            }
            changed = {name: value for name, value in asked.items() if value is not None}
            self._heads[encoder] = replace(self._trained(encoder), **changed)
        return self._heads[encoder]

    @cached_property
    def _heads(self) -> dict[FrameEncoder, FusionHead]:
        return {}

    def _trained(self, encoder: FrameEncoder) -> FusionHead:
        if self.checkpoint is not None:
            return FusionHead.load(_existing(self.checkpoint, SETTINGS), _existing(self.checkpoint, WEIGHTS))
        settings, weights = encoder.companion(SETTINGS), encoder.companion(WEIGHTS)
        if settings is None or weights is None:
            logger.info("no trained fusion head beside the encoder; using the head as it is before training")
            return FusionHead()
        return FusionHead.load(settings, weights)


def _existing(folder: str, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise ValueError(f"scorer.checkpoint={folder} holds no {name}; give the folder that training wrote")
    return path
