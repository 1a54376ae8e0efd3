"""Relevance as the task's own annotation gives it: the ceiling of every scorer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.questions import MOST_RELEVANT, Question
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.types import FrameFeatures

SLACK = 1e-3
"""Seconds by which containers round the times of frames."""


@dataclass(frozen=True)
class Oracle(FrameScorer):
    """A frame has the highest score among the annotated spans [start, end) that hold it, and 0 outside of them.

    An annotated event that falls between two frames lends its score to the frame nearest to its middle. All frames
    are equal for a question on the whole video. On an index with scores of 0 to 5 this is the row "GPT Assigned" of
    the paper's table 4.
    """

    scale: float = MOST_RELEVANT
    """Relevance of a frame with the highest score. The paper's softmax at temperature 2 reads labels of 0 to 5; at 1
    it hardly tells relevant frames from others."""

    def __post_init__(self) -> None:
        """Refuse a scale that turns the order around or makes all frames equal."""
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale={self.scale} must be finite and > 0; the labels' own scale is {MOST_RELEVANT:g}")

    def score(self, features: FrameFeatures, question: Question, encoder: FrameEncoder) -> Float[Tensor, " T"]:
        """Read the scores off the question's spans; ValueError where the task gives none."""
        if question.spans is None:
            raise ValueError(
                f"scorer oracle reads ground truth that question {question.doc_key or question.prompt!r} does not "
                "have; run a task with annotated spans (skvqa_synth, or one with a SparseKV-QA index), "
                "or another scorer"
            )
        return span_scores(question.spans, features.times) * (self.scale / MOST_RELEVANT)


def span_scores(spans: Sequence[tuple[float, float, float]], times: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Score each frame, at `times` in seconds, by the rules that `Oracle` states; no spans mean the whole video."""
    seconds = times.double()
    if not spans:
        return torch.ones(len(seconds))
    start, end, score = torch.tensor(spans, dtype=torch.float64, device=seconds.device).T[:, :, None]
    inside = (seconds >= start - SLACK) & (seconds < end - SLACK)  # [spans, T]
    nearest = (seconds - (start + end) / 2).abs().argmin(dim=1)
    missed = ~inside.any(dim=1)
    inside[missed, nearest[missed]] = True
    return torch.where(inside, score, 0.0).amax(dim=0).float()
