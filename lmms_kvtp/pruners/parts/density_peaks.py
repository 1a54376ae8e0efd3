"""Density-peak clustering with k nearest neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PAIRS_AT_ONCE = 2**24
"""Pairs of points whose distances stand in memory together; where there are more, distances are taken again."""

FEW = 25
"""Points that torch, too, compares by their differences, and no longer by products."""


def density_peaks(
    points: Float[Tensor, "n C"],
    num_clusters: int,
    neighbours: int = 7,
    noise: Float[Tensor, " n"] | None = None,
    barred: Bool[Tensor, " n"] | None = None,
) -> Int[Tensor, " n"]:
    """Find the cluster centre that each point belongs to, as its index; a centre belongs to itself.

    A point of high density (many close neighbours) and far from any point of higher density is a centre.

    Source: DPC-KNN, as PruneVid (arXiv 2412.16117), FastVID and FlashVID use it. Their releases add noise to densities
    to break ties, which makes equal points cluster at random; here ties go to the earlier point.

    Args:
        points: what is clustered.
        num_clusters: in [1, n].
        neighbours: that count for density, a point itself among them; fewer where there are fewer points.
        noise: added to densities, for comparison with recorded runs.
        barred: points that are no centres, at most n - num_clusters.

    Raises:
        ValueError: a point is NaN.
    """
    distances = _Distances.of(points)
    scores = _scores(distances, neighbours, noise)
    scores = scores if barred is None else scores.masked_fill(barred, -torch.inf)
    centres = scores.argsort(descending=True, stable=True)[:num_clusters]
    owner = centres[torch.cat([rows.argmin(dim=1) for rows in distances.to(centres)])]
    owner[centres] = centres
    return owner


def peak_scores(points: Float[Tensor, "n C"], neighbours: int = 7) -> Float[Tensor, " n"]:
    """Score how much each point is a density peak; raises as `density_peaks` does."""
    return _scores(_Distances.of(points), neighbours)


@dataclass(frozen=True)
class _Distances:
    """Distances between points, in units of the square root of their width, a block of rows at a time."""

    points: Float[Tensor, "n C"]
    held: Float[Tensor, "n n"] | None
    """Distances between all points, where these are few."""

    @staticmethod
    def of(points: Float[Tensor, "n C"]) -> "_Distances":
        points = points.float()
        return _Distances(points, _apart(points, points) if len(points) ** 2 <= PAIRS_AT_ONCE else None)

    def to(self, others: Int[Tensor, " m"] | slice) -> Iterator[Float[Tensor, "_ m"]]:
        if self.held is not None:
            yield self.held[:, others]
            return
        columns = self.points[others]
        for rows in torch.split(self.points, max(1, PAIRS_AT_ONCE // len(columns))):
            yield _apart(rows, columns)


def _apart(rows: Float[Tensor, "r C"], columns: Float[Tensor, "m C"]) -> Float[Tensor, "r m"]:
    """Compute distances; those of few points by differences, so that equal points have equal distances."""
    if max(len(rows), len(columns)) <= FEW:
        distances: Tensor = torch.cdist(rows, columns)
    else:
        squares = torch.linalg.vecdot(rows, rows)[:, None] + torch.linalg.vecdot(columns, columns)
        products = gram(rows) if rows is columns else rows @ columns.T
        distances = squares.sub_(products, alpha=2).clamp_min_(0).sqrt_()
    return distances.div_(columns.shape[1] ** 0.5)


def pairs_of(count: int) -> int:
    """Count the pairs of so many points whose products `density_peaks` computes."""
    return count**2 if count <= FEW or count**2 > PAIRS_AT_ONCE else gram_pairs(count)


def gram_pairs(count: int) -> int:
    """Count the pairs of so many points whose products `gram` computes."""
    return count * (count // 2) + (count - count // 2) ** 2


def gram(points: Float[Tensor, "n C"]) -> Float[Tensor, "n n"]:
    """Compute all products of two points, a quarter of them by symmetry."""
    half = len(points) // 2
    first, second = points[:half] @ points.T, points[half:] @ points[half:].T
    return torch.cat([first, torch.cat([first[:, half:].T, second], dim=1)])


def _scores(distances: _Distances, neighbours: int, noise: Float[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
    everyone, count = slice(None), min(neighbours, len(distances.points))
    found = [(rows.topk(count, dim=1, largest=False).values, rows.max()) for rows in distances.to(everyone)]
    density = torch.exp(-torch.cat([nearest for nearest, _ in found]).square().mean(dim=1))
    if torch.isnan(density).any():
        raise ValueError("distances between tokens hold NaN; look at the tokens and their dtype")
    density = density if noise is None else density + noise
    farthest, gaps, start = torch.stack([most for _, most in found]).max(), [], 0
    for rows in distances.to(everyone):
        denser = density > density[start : start + len(rows), None]  # [r, n]: column denser than row
        gap = rows.masked_fill(~denser, torch.inf).amin(dim=1)
        gaps.append(torch.where(denser.any(dim=1), gap, farthest))
        start += len(rows)
    return torch.cat(gaps) * density
