"""Scorers side by side on the same videos, without any language model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.encoders.parts.predictor import find_predictor
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.encoders.tower import TowerEncoder
from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import IMAGE, WHOLE, CachedVideo, FeatureCache, Viewer, embeddings, patches
from lmms_kvtp.predictor.measure import MEASURES, Array, mean_by_video, measure_scores, paired_bootstrap, sparsity
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.base import FrameScorer
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.uniform import SameRelevance
from lmms_kvtp.types import FrameFeatures, GridPool
from lmms_kvtp.vlms.base import VideoVLM

UNTUNED = "untuned"
"""Row that the others are compared with."""
COLUMNS = (*MEASURES, "sparsity, whole video", "GFLOP", "recall against untuned")
"""Columns of the table after the name of a row."""
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Temperatures of the allocation to compare; the paper's figure 7 has 0.5 to 8."""
CLIP_SIZES = (1, 4, 8, 16, 32)
SHARES = ((0.0, 0.0), (0.05, 0.0), (0.0, 0.05), (0.05, 0.05), (0.1, 0.1), (0.2, 0.2), (0.4, 0.4))
"""Pairs of theta and phi of eq. 10 to compare; the paper's are both 0.05."""


@dataclass(frozen=True)
class Candidate:
    """A scorer with all that it needs to score the frames of cached videos."""

    viewer: Viewer
    """View of the frames that is cached."""
    encoder: FrameEncoder
    scorer: FrameScorer | None
    """Scorer of the frames; None: the labels, which in an index of SparseKV-QA a large language model gave."""
    tower: TowerEncoder | None = None
    """Encoder that makes embeddings of what is cached; None: these are cached."""

    def features(self, video: CachedVideo) -> FrameFeatures:
        """Make the features that the scorer reads."""
        if self.tower is None:
            return FrameFeatures(video.times, video.image)
        return self.tower.describe(video.image.float(), video.times, IMAGE)

    def score(self, features: FrameFeatures, question: Question, labels: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        """Score the frames."""
        return labels if self.scorer is None else self.scorer.score(features, question, self.encoder).cpu()

    def gigaflops(self, video: CachedVideo, features: FrameFeatures, question: Question, sharing: int) -> float:
        """Count 10^9 operations for one question; `sharing` questions on a video share those on frames."""
        if self.scorer is None or not self.scorer.needs:
            return 0.0
        own = self.scorer.flops(features, question, self.encoder) or 0
        pool = WHOLE if self.tower is None else GridPool("average", (1, video.image.shape[1]), 1)
        of_frames = self.encoder.flops(len(features.times), IMAGE, pool) or 0
        return (own + of_frames / sharing) / 1e9


def baselines(untuned: Siglip) -> dict[str, Candidate]:
    """Make the candidates that trained predictors are held against, but for the oracle."""
    seen = embeddings(untuned)
    return {"uniform": Candidate(seen, untuned, SameRelevance()), UNTUNED: Candidate(seen, untuned, KVTP(fusion=False))}


def oracle(untuned: Siglip) -> Candidate:
    """Make the candidate that scores by the labels themselves: the ceiling."""
    return Candidate(embeddings(untuned), untuned, None)


def trained(checkpoint: str, untuned: Siglip, vlm: VideoVLM | None, settings: Mapping[str, Any]) -> Candidate:
    """Load a predictor that `lmms-kvtp train predictor` wrote, in any of its forms, by what `predictor=` takes.

    `untuned` reads frames for a slim predictor, the tower of `vlm` for a shared one. `settings` are fields of `KVTP`
    that win over the checkpoint's. ValueError where there is no such predictor, or a shared one and no model.
    """
    found = find_predictor(checkpoint, "checkpoint")
    if found.form == "shared":
        if vlm is None:
            raise ValueError(f"{checkpoint} reads a model's own tower; give the model with --shared MODEL")
        tower = TowerEncoder(checkpoint)
        return Candidate(patches(vlm), tower, KVTP(**settings), tower)
    if found.form == "slim":
        return Candidate(embeddings(untuned), untuned, KVTP(**settings, checkpoint=checkpoint))
    return Candidate(embeddings(encoder := Siglip(checkpoint)), encoder, KVTP(**settings))


def variants(ablation: str | None) -> dict[str, Mapping[str, Any]]:
    """List the settings of the scorer `kvtp` for each row, by what follows the checkpoint's name in it."""
    if ablation == "fusion":
        return {f", {t:g} + {p:g}": {"local_weight": t, "global_weight": p} for t, p in SHARES}
    if ablation == "clip_size":
        return {f", clips of {size}": {"clip_size": size} for size in CLIP_SIZES}
    return {"": {}, ", no fusion": {"fusion": False}}


@dataclass(frozen=True)
class CandidateResults:
    """Measures of one candidate, question by question."""

    key: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    """Video and measures of each question that has key frames."""
    kinds: list[str] = field(default_factory=list)
    """Kinds of the same questions; empty where the data does not say."""
    flat: list[float] = field(default_factory=list)
    """Sparsity on each question about the whole video, where 1 is right."""
    gigaflops: list[float] = field(default_factory=list)
    """10^9 operations of encoder and scorer for each question; the encoder's are shared by those on a video."""


@torch.inference_mode()
def measure_candidates(
    candidates: Mapping[str, Candidate],
    examples: Sequence[Example],
    folder: Path,
    temperatures: Sequence[float] = (2.0,),
) -> dict[float, dict[str, CandidateResults]]:
    """Measure every candidate on every question, by temperature of the allocation; each is scored once for all of them.

    `folder` is that of the feature cache. Videos that cannot be used are left out, with a warning. ValueError where no
    question has key frames.
    """
    outcomes = {temperature: {name: CandidateResults() for name in candidates} for temperature in temperatures}
    for name, candidate in candidates.items():
        seen, _ = FeatureCache(candidate.viewer, folder).encode(examples)
        own = {temperature: found[name] for temperature, found in outcomes.items()}
        for video in seen:
            features, questions = candidate.features(video), video.example.questions
            for number, (question, labels) in enumerate(zip(questions, video.labels(), strict=True)):
                scores = candidate.score(features, question, labels)
                gigaflops = candidate.gigaflops(video, features, question, len(questions))
                for temperature, outcome in own.items():
                    if (labels != labels[0]).any():
                        outcome.key.append((video.example.source, measure_scores(scores, labels, temperature)))
                        outcome.kinds.extend(video.example.kinds[number : number + 1])
                    else:
                        outcome.flat.append(sparsity(scores, temperature))
                    outcome.gigaflops.append(gigaflops)
        if not all(outcome.key for outcome in own.values()):
            raise ValueError(f"none of the questions on {len(seen)} videos has frames above its mean relevance")
    return outcomes


def candidates_table(outcomes: Mapping[str, CandidateResults], baseline: str) -> list[list[str]]:
    """Write one line for each candidate: its measures, and its recall less that of `baseline` with a 95 % interval."""
    lines = []
    for name, outcome in outcomes.items():
        means = mean_by_video(outcome.key)
        cells = [f"{means[measured]:.3f}" for measured in MEASURES]
        cells += [f"{np.mean(outcome.flat):.2f}" if outcome.flat else "-", f"{np.mean(outcome.gigaflops):.1f}"]
        difference = "-"
        if name != baseline:
            mean, low, high = paired_bootstrap(_recalls(outcome), _recalls(outcomes[baseline]))
            difference = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append([name, *cells, difference])
    return lines


def by_kind(outcomes: Mapping[str, CandidateResults]) -> tuple[list[str], list[list[str]]]:
    """Write header and lines of recall by kind of question, mean over questions; no kinds where the data has none."""
    kinds = sorted({kind for outcome in outcomes.values() for kind in outcome.kinds})
    lines = []
    for name, outcome in outcomes.items():
        recalls = [row["recall"] for _, row in outcome.key]
        found = [[recall for recall, own in zip(recalls, outcome.kinds, strict=True) if own == kind] for kind in kinds]
        lines.append([name, *(f"{np.mean(values):.3f}" for values in found)])
    return kinds, lines


def _recalls(outcome: CandidateResults) -> Array:
    videos = sorted({video for video, _ in outcome.key})
    return np.array([np.mean([row["recall"] for video, row in outcome.key if video == each]) for each in videos])
