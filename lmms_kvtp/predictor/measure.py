"""Measures of a predictor, without any language model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from torch import Tensor

from lmms_kvtp.allocators.softmax import Softmax

BUDGET = 0.2
"""Share of tokens, and of frames, that are kept."""
CAPACITY = 196
"""Tokens of a frame of LLaVA-Video."""
MEASURES = ("auroc", "average_precision", "ndcg", "recall", "budget_share", "sparsity", "calibration")

Array = npt.NDArray[np.float64]


def measure_scores(
    scores: Float[Tensor, " T"], labels: Float[Tensor, " T"], temperature: float = 2.0
) -> dict[str, float]:
    """Compare the scores of one question with its labels; ValueError where these are all equal, so that none is key.

    Key frames are those above the mean label. auroc: how often a key frame is above another frame, ties half.
    average_precision and ndcg: of the ranking; gains are the labels, ties share their places. recall: key frames among
    the best fifth, over as many as fit there. budget_share: tokens of key frames at a keep ratio of a fifth and this
    temperature, over all kept tokens. sparsity: largest over mean frame rate, eq. 1. calibration: divergence (nats) of
    the rates from those that the labels give at temperature 1, as an index has them; 0 where they agree.
    """
    key = (labels > labels.mean()).numpy()
    if not key.any():
        raise ValueError(f"all {len(labels)} labels are {labels[0]:g}; such questions have no key frames to find")
    values, gains = scores.double().numpy(), labels.double().numpy()
    room = max(1, int(BUDGET * len(values)))
    edge = np.sort(values)[::-1][room - 1]
    above, tied = values > edge, values == edge
    top = above + tied * (room - above.sum()) / tied.sum()  # ties are broken at random
    budgets = Softmax(temperature=temperature).allocate(scores, int(BUDGET * len(values) * CAPACITY), CAPACITY)
    log_rates, log_wanted = ((x.double() / tau).log_softmax(dim=0) for x, tau in ((scores, temperature), (labels, 1)))
    return {
        "auroc": float(roc_auc_score(key, values)),
        "average_precision": float(average_precision_score(key, values)),
        "ndcg": float(ndcg_score(gains[None], values[None])),
        "recall": float(top[key].sum() / min(room, key.sum())),
        "budget_share": float(budgets.numpy()[key].sum() / budgets.sum()),
        "sparsity": sparsity(scores, temperature),
        "calibration": float((log_wanted.exp() * (log_wanted - log_rates)).sum()),
    }


def sparsity(scores: Float[Tensor, " T"], temperature: float) -> float:
    """Divide the largest by the mean rate of an allocation by softmax(scores / temperature); 1 if all are equal."""
    return float(torch.softmax(scores.double() / temperature, dim=0).max() * len(scores))


def mean_by_video(rows: Sequence[tuple[str, dict[str, float]]]) -> dict[str, float]:
    """Average over each video's questions, then over videos; a row is the video and the measures of a question."""
    by_video: dict[str, list[dict[str, float]]] = {}
    for video, row in rows:
        by_video.setdefault(video, []).append(row)
    return {
        name: float(np.mean([np.mean([row[name] for row in of_video]) for of_video in by_video.values()]))
        for name in MEASURES
    }


def paired_bootstrap(ours: Array, theirs: Array) -> tuple[float, float, float]:
    """Bootstrap over videos: mean difference of two measures per video, and its 95 % interval."""
    difference = ours - theirs
    picks = np.random.default_rng(0).integers(0, len(difference), (2000, len(difference)))
    low, high = np.quantile(difference[picks].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
