"""HoliTom's part before the language model: it merges what stays still in a window, and thins out what moves."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import at_one_rate
from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.density_peaks import density_peaks, pairs_of
from lmms_kvtp.pruners.parts.groups import DROPPED, merge_video
from lmms_kvtp.pruners.parts.packing import check, read, refuse_nan
from lmms_kvtp.pruners.parts.scenes import affordable, averages, change, still_and_moving
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class HoliTom(TokenPruner):
    """Cuts the video into the windows that save most tokens, merges what stays still in one, and thins out the rest.

    A patch position is still in a window if consecutive tokens have a cosine above `threshold` in all of it; that
    saves all of its tokens but one. Of all ways to cut the video, the one that saves most is taken, by dynamic
    programming. The averages of a window's still positions are clustered, each cluster a weighted sum of its centre
    and the mean of the others; of the tokens of a frame that move, those that receive most attention stay and the
    rest go. Of n tokens that move r n stay, rounded up, of n still positions r n to the nearest, with the r that meets
    the total. Budgets that differ by more than one weigh n: those of the frame, or the window's mean. Where merging
    leaves less than the total, the least still positions are not merged.

    Source: HoliTom (arXiv 2505.21334) as released, the part before the language model; its merging inside is not here.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"column_attention"})
    scope: ClassVar[Literal["frame", "video"]] = "video"
    paper: ClassVar[str] = "HoliTom, arXiv 2505.21334"
    searches: ClassVar[bool] = True

    threshold: float = 0.8
    """Least cosine of a still position; the paper lowers it to 0.65 where 10 % are kept."""
    centre_weight: float = 0.6
    """Weight of a cluster's centre in its sum; a centre alone stays as it is."""
    neighbours: int = 7
    """Neighbors that count for density in density-peak clustering, at most as many as clusters."""

    def __post_init__(self) -> None:
        """Refuse a weight outside [0, 1]."""
        if not 0 <= self.centre_weight <= 1:
            raise ValueError(f"centre_weight={self.centre_weight} is outside [0, 1]; the other members share the rest")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many tokens as all budgets together."""
        check(tokens, budgets)
        attention = read(features, "column_attention", tokens).float()
        refuse_nan(attention, "attention")
        total, count = int(budgets.sum()), tokens.num_frames * tokens.capacity
        alike = 1 - change(tokens.embeds, (torch.arange(tokens.num_frames) - 1).clamp_min(0))
        refuse_nan(alike, "tokens")
        scenes = [slice(start, stop) for start, stop in pairwise(windows(alike, self.threshold))]
        lengths = [scene.stop - scene.start for scene in scenes]
        alone = torch.full_like(alike[:1], -torch.inf)  # nothing of a single frame is still
        scores = torch.stack([(alike[scene][1:] if len(alike[scene]) > 1 else alone).amin(dim=0) for scene in scenes])
        static = affordable(scores, self.threshold, lengths, spare=count - total)
        groups, weights = still_and_moving(scenes, static, budgets)
        owner = torch.full((count,), DROPPED, device=attention.device)
        parts = torch.ones(count, device=attention.device)
        flat, ranked, flops = tokens.embeds.flatten(0, 1), attention.flatten(), 0
        sizes = torch.tensor([group.shape[1] for group in groups])
        even = 0 < int(budgets.min()) >= int(budgets.max()) - 1  # a split whose rounding says nothing of frames
        still = torch.tensor([len(group) > 1 for group in groups])
        shares = at_one_rate(sizes.double() if even else weights, sizes, total, still / 2)
        for group, share in zip(groups, shares.tolist(), strict=True):
            if len(group) > 1 and share:
                owner[group], parts[group] = self._cluster(averages(flat, group), group, share)
                flops += pairs_flops(1, pairs_of(group.shape[1]), flat.shape[1])
            elif len(group) == 1:
                kept = group[0][ranked[group[0]].argsort(descending=True, stable=True)[:share]]
                owner[kept] = kept
        return replace(merge_video(tokens, owner, parts), flops=flops)

    def _cluster(
        self, points: Float[Tensor, "n D"], group: Int[Tensor, "W n"], count: int
    ) -> tuple[Int[Tensor, "W n"], Float[Tensor, "W n"]]:
        """Find the token at which each still token's cluster stands, and the weight of each in its sum."""
        centre = density_peaks(points, count, min(self.neighbours, count))
        members = torch.bincount(centre, minlength=len(centre)).float()[centre]
        own = torch.where(members > 1, self.centre_weight, 1.0)
        weights = torch.where(
            centre == torch.arange(len(centre), device=centre.device), own, (1 - own) / (members - 1).clamp_min(1)
        )
        return group[0][centre].expand_as(group), (weights / len(group)).expand_as(group)


def windows(alike: Float[Tensor, "T N"], threshold: float) -> list[int]:
    """Find where windows begin, and where the last one ends: the cuts that let still positions save most tokens.

    All cosines of a still position exceed the threshold. `alike` is the cosine of each token with the one at the same
    position of the frame before; its first row is not read.
    """
    frames = len(alike)
    row = torch.arange(frames, device=alike.device)[:, None]
    since = torch.where(alike > threshold, 0, row).cummax(dim=0).values  # [T, N]: still from this frame to the row's
    counts = torch.zeros(frames, frames, device=alike.device)
    still = counts.scatter_add(1, since, torch.ones_like(alike, dtype=counts.dtype)).cumsum(dim=1).cpu().numpy()
    best, begins = np.zeros(frames + 1), np.zeros(frames + 1, dtype=int)
    for stop in range(1, frames + 1):
        starts = np.arange(stop)
        saved = best[:stop] + still[stop - 1, :stop] * (stop - 1 - starts)
        begins[stop] = stop - 1 - saved[::-1].argmax()  # of equals the shortest window
        best[stop] = saved[begins[stop]]
    cuts = [frames]
    while cuts[0]:
        cuts.insert(0, int(begins[cuts[0]]))
    return cuts
