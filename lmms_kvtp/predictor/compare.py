"""Scorers side by side on the same videos, without any language model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lmms_kvtp.predictor.candidates import Candidate
from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import FeatureCache, SeenVideo
from lmms_kvtp.predictor.measure import MEASURES, Array, mean_by_video, measure, paired_bootstrap, sparsity

COLUMNS = (*MEASURES, "sparsity, whole video", "GFLOP", "recall against untuned")
"""Of the table, behind the name of a row."""


@dataclass(frozen=True)
class Outcome:
    """What one candidate did, question by question."""

    key: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    """Video and measures of each question that has key frames."""
    kinds: list[str] = field(default_factory=list)
    """Of the same questions; empty where the data does not say."""
    flat: list[float] = field(default_factory=list)
    """Sparsity on each question about the whole video; 1 is right."""
    gigaflops: list[float] = field(default_factory=list)
    """10^9 operations of encoder and scorer for each question; the encoder's are shared by those on a video."""


@torch.inference_mode()
def compare(
    candidates: Mapping[str, Candidate],
    examples: Sequence[Example],
    folder: Path,
    temperatures: Sequence[float] = (2.0,),
) -> dict[float, dict[str, Outcome]]:
    """Measure every candidate on every question; each is scored once for all temperatures.

    Args:
        candidates: by the name of their row.
        examples: videos that cannot be used are left out, with a warning.
        folder: of what is cached of frames.
        temperatures: of the allocation that `budget_share`, `sparsity` and `calibration` tell of.

    Returns:
        For each temperature, the outcome of each candidate.

    Raises:
        ValueError: no question has key frames.
    """
    outcomes = {temperature: {name: Outcome() for name in candidates} for temperature in temperatures}
    for name, candidate in candidates.items():
        seen, _ = FeatureCache(candidate.viewer, folder).see(examples)
        own = {temperature: found[name] for temperature, found in outcomes.items()}
        for video in seen:
            _measure(candidate, video, own)
        if not all(outcome.key for outcome in own.values()):
            raise ValueError(f"none of the questions on {len(seen)} videos has frames above its mean relevance")
    return outcomes


def table(outcomes: Mapping[str, Outcome], baseline: str) -> list[list[str]]:
    """One line for each candidate: its measures, and its recall less that of `baseline` with a 95 % interval."""
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


def by_kind(outcomes: Mapping[str, Outcome]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of recall by kind of question, mean over questions; no kinds where the data has none."""
    kinds = sorted({kind for outcome in outcomes.values() for kind in outcome.kinds})
    lines = []
    for name, outcome in outcomes.items():
        recalls = [row["recall"] for _, row in outcome.key]
        found = [[recall for recall, own in zip(recalls, outcome.kinds, strict=True) if own == kind] for kind in kinds]
        lines.append([name, *(f"{np.mean(values):.3f}" for values in found)])
    return kinds, lines


def _measure(candidate: Candidate, video: SeenVideo, outcomes: Mapping[float, Outcome]) -> None:
    """Add the questions on one video to the outcome of each temperature."""
    features = candidate.features(video)
    questions = video.example.questions
    for number, (question, labels) in enumerate(zip(questions, video.labels(), strict=True)):
        scores = candidate.score(features, question, labels)
        gigaflops = candidate.gigaflops(len(labels), question, len(questions))
        for temperature, outcome in outcomes.items():
            if (labels != labels[0]).any():
                outcome.key.append((video.example.source, measure(scores, labels, temperature)))
                outcome.kinds.extend(video.example.kinds[number : number + 1])
            else:
                outcome.flat.append(sparsity(scores, temperature))
            outcome.gigaflops.append(gigaflops)


def _recalls(outcome: Outcome) -> Array:
    videos = sorted({video for video, _ in outcome.key})
    return np.array([np.mean([row["recall"] for video, row in outcome.key if video == each]) for each in videos])
