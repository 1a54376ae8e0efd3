"""Scorers side by side on the same videos, without any language model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.training.predictor.examples import Example
from lmms_kvtp.training.predictor.features import FeatureCache, SeenVideo
from lmms_kvtp.training.predictor.measure import MEASURES, Array, mean_by_video, measure, paired_bootstrap
from lmms_kvtp.types import FrameFeatures


@dataclass(frozen=True)
class Candidate:
    """A scorer and the encoder that it reads."""

    encoder: Siglip
    scorer: FrameScorer


Rows = dict[str, list[tuple[str, dict[str, float]]]]
"""For each candidate, the video and the measures of each question."""


@torch.inference_mode()
def compare(
    candidates: Mapping[str, Candidate], examples: Sequence[Example], folder: Path, temperature: float = 2.0
) -> Rows:
    """Measure every candidate on every question that has key frames.

    Args:
        candidates: by the name of their row.
        examples: videos that cannot be read are left out, with a warning.
        folder: of cached features.
        temperature: of the allocation that `budget_share` and `sparsity` tell of.

    Raises:
        ValueError: no question has key frames.
    """
    rows: Rows = {}
    for name, candidate in candidates.items():
        seen, _ = FeatureCache(candidate.encoder, folder).see(examples)
        rows[name] = [row for video in seen for row in _measured(candidate, video, temperature)]
        if not rows[name]:
            raise ValueError(f"none of the questions on {len(seen)} videos has frames above its mean relevance")
    return rows


def table(rows: Rows, baseline: str) -> list[list[str]]:
    """One line for each candidate: its measures, and its recall less that of `baseline` with a 95 % interval."""
    lines = []
    for name, of_candidate in rows.items():
        means = mean_by_video(of_candidate)
        difference = "-"
        if name != baseline:
            mean, low, high = paired_bootstrap(_recalls(of_candidate), _recalls(rows[baseline]))
            difference = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append([name, *(f"{means[measured]:.3f}" for measured in MEASURES), difference])
    return lines


def _measured(candidate: Candidate, video: SeenVideo, temperature: float) -> list[tuple[str, dict[str, float]]]:
    features = FrameFeatures(video.times, video.image)
    return [
        (
            video.example.source,
            measure(candidate.scorer.score(features, question, candidate.encoder), labels, temperature),
        )
        for question, labels in zip(video.example.questions, video.labels(), strict=True)
        if (labels != labels[0]).any()
    ]


def _recalls(rows: Sequence[tuple[str, dict[str, float]]]) -> Array:
    videos = sorted({video for video, _ in rows})
    return np.array([np.mean([row["recall"] for video, row in rows if video == each]) for each in videos])
