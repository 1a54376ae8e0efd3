"""What is compared: a scorer with the encoder that it reads, and what both cost."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.cost.flops import VisionShape, pooling_head_flops
from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.parts.text_side import WEIGHTS as TEXT_WEIGHTS
from lmms_kvtp.encoders.parts.tower_head import SETTINGS as TOWER_HEAD
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.encoders.tower import Tower
from lmms_kvtp.predictor.features import SeenVideo
from lmms_kvtp.predictor.viewers import IMAGE, Embeddings, Patches, Viewer
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.similarity import Similarity
from lmms_kvtp.scorers.uniform import Uniform
from lmms_kvtp.shipped import TINY
from lmms_kvtp.types import FrameFeatures
from lmms_kvtp.vlms.llava_video import LlavaVideo

TINY_SHARED = "tiny_shared"
"""The shipped predictor that reads the embedded model's own tower."""
UNTUNED = "untuned"
"""Row that the others are compared with."""


@dataclass(frozen=True)
class Candidate:
    """Something that scores the frames of cached videos."""

    viewer: Viewer
    """What of the frames is cached."""
    encoder: FrameEncoder
    scorer: FrameScorer | None
    """None: the labels themselves, which in an index of SparseKV-QA a large language model gave."""
    tower: Tower | None = None
    """Makes embeddings of what is cached; None: these are cached."""

    def features(self, video: SeenVideo) -> FrameFeatures:
        """What the scorer reads."""
        if self.tower is None:
            return FrameFeatures(video.times, video.image)
        return self.tower.describe(video.image.float(), video.times, IMAGE)

    def score(self, features: FrameFeatures, question: Question, labels: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        """Score the frames."""
        return labels if self.scorer is None else self.scorer.score(features, question, self.encoder).cpu()

    def gigaflops(self, num_frames: int, question: Question, questions_on_video: int) -> float:
        """10^9 operations for one question; those on frames are shared by the questions on a video."""
        if self.scorer is None or not self.scorer.needs:
            return 0.0
        own = self.scorer.flops(num_frames, question, self.encoder) or 0
        return (own + self._flops_of_frames(num_frames) / questions_on_video) / 1e9

    def _flops_of_frames(self, num_frames: int) -> float:
        if self.tower is None:
            return float(self.encoder.flops(num_frames, IMAGE) or 0)
        shape = self.tower.head.shape
        own = VisionShape(0, 1, shape.width, shape.intermediate, 0, shape.heads)
        into_text = 2 * shape.width * shape.embed if shape.width != shape.embed else 0
        assert isinstance(self.viewer, Patches)
        rows, columns = self.viewer.vlm.pool.grid
        return float(pooling_head_flops(own, num_frames, patches=rows * columns) + num_frames * into_text)


def baselines(untuned: Siglip) -> dict[str, Candidate]:
    """What trained predictors are held against, but for the oracle."""
    seen = Embeddings(untuned)
    return {"uniform": Candidate(seen, untuned, Uniform()), UNTUNED: Candidate(seen, untuned, Similarity())}


def oracle(untuned: Siglip) -> Candidate:
    """The labels themselves: the ceiling."""
    return Candidate(Embeddings(untuned), untuned, None)


def trained(checkpoint: str, untuned: Siglip, vlm: LlavaVideo | None, settings: Mapping[str, Any]) -> Candidate:
    """A predictor that `lmms-kvtp train predictor` wrote, in any of its forms.

    Args:
        checkpoint: folder, hub id of a SigLIP, or `tiny` or `tiny_shared` for what is shipped.
        untuned: what a slim predictor reads frames with.
        vlm: what a shared predictor reads frames with.
        settings: fields of `KVTP` that win over the checkpoint's.

    Raises:
        ValueError: a shared predictor, and no model.
    """
    folder, scorer = Path(checkpoint), KVTP(**settings)  # what `Shared` computes, with settings
    if checkpoint == TINY_SHARED or (folder / TOWER_HEAD).is_file():
        if vlm is None:
            raise ValueError(f"{checkpoint} reads a model's own tower; give the model with --shared MODEL")
        tower = Tower() if checkpoint == TINY_SHARED else Tower(checkpoint)
        return Candidate(Patches(vlm), tower, scorer, tower)
    if checkpoint == TINY or (folder / TEXT_WEIGHTS).is_file():
        return Candidate(Embeddings(untuned), untuned, replace(scorer, checkpoint=checkpoint))
    encoder = Siglip(checkpoint)
    return Candidate(Embeddings(encoder), encoder, scorer)
