"""Density-peak clustering with k nearest neighbours."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def density_peaks(
    points: Float[Tensor, "n C"], num_clusters: int, neighbours: int = 7, noise: Float[Tensor, " n"] | None = None
) -> Int[Tensor, " n"]:
    """The index of the cluster centre that each point belongs to; a centre belongs to itself.

    A point of high density (many close neighbours) and far from any point of higher density is a centre.

    Source: DPC-KNN, as PruneVid (arXiv 2412.16117), FastVID and FlashVID use it. Their releases add noise to densities
    to break ties, which makes equal points cluster at random; here ties go to the earlier point.

    Args:
        points: what is clustered.
        num_clusters: in [1, n].
        neighbours: that count for density, a point itself among them; fewer where there are fewer points.
        noise: added to densities, for comparison with recorded runs.

    Raises:
        ValueError: a point is NaN.
    """
    scores, distances = peak_scores(points, neighbours, noise)
    centres = scores.argsort(descending=True, stable=True)[:num_clusters]
    owner = centres[distances[:, centres].argmin(dim=1)]
    owner[centres] = centres
    return owner


def peak_scores(
    points: Float[Tensor, "n C"], neighbours: int = 7, noise: Float[Tensor, " n"] | None = None
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """How much each point is a density peak; and all distances, in units of the square root of C."""
    distances = torch.cdist(points.float(), points.float()) / points.shape[1] ** 0.5
    if torch.isnan(distances).any():
        raise ValueError("distances between tokens hold NaN; look at the tokens and their dtype")
    nearest = distances.topk(min(neighbours, len(points)), dim=1, largest=False).values
    density = torch.exp(-nearest.square().mean(dim=1))
    density = density if noise is None else density + noise
    denser = density[None, :] > density[:, None]  # [n, n]: column denser than row
    farthest = distances.max()
    gap = distances.masked_fill(~denser, torch.inf).amin(dim=1)
    return torch.where(denser.any(dim=1), gap, farthest) * density, distances
