"""KVTP's relevance predictor: similarity of frame and question, with the context of clip and video."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.device import place
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.parts.predictor import FUSION, TEXT_SIDE, predictor_folder
from lmms_kvtp.encoders.parts.text_side import TextSide, load_text_side
from lmms_kvtp.questions import Question, question_text
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.types import FrameFeatures

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KVTP(FrameScorer):
    """Image-text logits of a frame, of its clip and of the video, weighed by the trained context fusion head.

    Needs a trained predictor: `predictor=` sets encoder, text side and head at once. Where there is none, the encoder
    alone scores the frames (`scorer=similarity`), and the run is called "KVTP, untuned". A shared predictor reads the
    language model's own tower: at LLaVA-Video-7B it adds less than 0.1 % to the operations of an answer, where KVTP's
    own adds 15 % (docs/predictor.md). Of a question in several pieces, the best piece counts.

    Source: KVTP (arXiv 2503.10742), section 4.1. Its release trains the head and leaves it out at inference, which is
    eq. 2 alone: `fusion=false`. Sharing the tower is ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    paper: ClassVar[str] = "KVTP, arXiv 2503.10742"
    training_free: ClassVar[bool] = False

    fusion: bool = True
    """Apply the head, as the paper describes; false: score each frame alone."""
    checkpoint: str | None = None
    """A trained predictor, as `predictor=` names it: its fusion head, and its text side where it has one, which reads
    questions in place of the encoder's. None: the head beside the encoder's weights, or the untrained one."""
    clip_size: int | None = None
    """Frames of a clip; none: what the checkpoint says."""
    queries: Literal["normalized", "raw"] | None = None
    """Length of the queries of eq. 6 and 7 (see `FusionHead.queries`); none: what the checkpoint says."""
    local_weight: float | None = None
    """Weight of the clip, theta of eq. 10; none: what the checkpoint says."""
    global_weight: float | None = None
    """Weight of the video, phi of eq. 10; none: what the checkpoint says."""
    device: str | None = None
    """Where the checkpoint's text side runs; None: on the GPU if there is one."""

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Compare each frame in its context with the question.

        ValueError where the question has no text, or the checkpoint is damaged or of another encoder.
        """
        assert features.image is not None
        reader = self._reader(encoder)
        text = reader.encode_text([question_text(question)])
        if not self.fusion:
            return reader.logits(features.image, text).amax(dim=0)
        head = self.head(encoder)
        return head.mix([reader.logits(view, text) for view in head.views(features.image)]).amax(dim=0)

    def flops(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> int | None:
        """Count text tower and cosines, with the head for three views of each frame."""
        reader, texts = self._reader(encoder), [question_text(question)]
        scoring = reader.relevance_flops(len(features.times), texts, views=3 if self.fusion else 1)
        if features.text is None or reader is not encoder:
            return scoring
        embedding = reader.relevance_flops(0, texts)
        return None if scoring is None or embedding is None else scoring - embedding

    def _reader(self, encoder: FrameEncoder) -> FrameEncoder | TextSide:
        """Choose what embeds questions: the checkpoint's text side, or the encoder."""
        return self.text_side or encoder

    def head(self, encoder: FrameEncoder) -> FusionHead:
        """Read the fusion head that goes with `encoder`, once; where none was trained, make one as before training."""
        if encoder not in self._heads:
            settings, weights = (self.folder / name if self.folder else encoder.companion(name) for name in FUSION)
            if settings is None or weights is None:
                logger.info("no trained fusion head beside the encoder; using the head as it is before training")
                found = FusionHead()
            else:
                found = FusionHead.load(settings, weights)
            names = ("clip_size", "queries", "local_weight", "global_weight")
            asked: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
            self._heads[encoder] = replace(found, **asked)
        return self._heads[encoder]

    @cached_property
    def text_side(self) -> TextSide | None:
        """Text side that reads questions in place of the encoder, if the checkpoint has one; loaded on first use."""
        if self.folder is None or not (self.folder / TEXT_SIDE[1]).is_file():
            return None
        return load_text_side(self.folder, place(self.device, "float32")[0])

    @cached_property
    def folder(self) -> Path | None:
        """Folder of the checkpoint; the files of a shipped one are checked."""
        return predictor_folder(self.checkpoint, "scorer.checkpoint") if self.checkpoint else None

    @cached_property
    def _heads(self) -> dict[FrameEncoder, FusionHead]:
        return {}
