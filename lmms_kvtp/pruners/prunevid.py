"""PruneVid's first stage: static patches merged over time, dynamic ones within their frame."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.allocators.base import largest_remainder
from lmms_kvtp.pruners._dpc import density_peaks
from lmms_kvtp.pruners._merge import DROPPED, merge_video
from lmms_kvtp.pruners._scenes import segment, stillness
from lmms_kvtp.pruners.base import TokenPruner, check
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class PruneVid(TokenPruner):
    """Cuts the video into scenes, averages patches that stay the same in a scene, and clusters what is left.

    A patch position whose tokens have a mean pairwise cosine above `threshold` in its scene is static. The averages of
    a scene's static positions, and the dynamic tokens of each frame, are clustered down to a share of the total that
    is proportional to their number, weighted by budgets: those of the frame, or the scene's mean. Each keeps at least
    one token where the total allows it. Where it leaves room, the least similar positions are not merged.

    Source: PruneVid (arXiv 2412.16117), section 3.2. There both kinds keep half of their number whatever the budget,
    and 14 tokens or fewer are not clustered. A scene of one frame has no pairs; the release divides by zero, here all
    of it is dynamic.
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    paper: ClassVar[str] = "PruneVid, arXiv 2412.16117"

    threshold: float = 0.8
    """Least similarity of a static position."""
    scenes: float = 0.25
    """Clusters of frames, as a part of their number; scenes are runs of frames, and may be fewer."""
    neighbours: int = 7
    """Of density-peak clustering."""

    def prune(
        self,
        tokens: FrameTokens,
        features: FrameFeatures,
        budgets: Int[Tensor, " T"],
        relevance: Float[Tensor, " T"] | None = None,
    ) -> PackedTokens:
        """Keep as many tokens as all budgets together."""
        check(tokens, budgets)
        embeds, total = tokens.embeds, int(budgets.sum())
        lengths = segment(embeds.mean(dim=1, dtype=torch.float32), int(self.scenes * len(embeds)), self.neighbours)
        starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
        scenes = [slice(start, stop) for start, stop in pairwise(starts)]
        static = self._affordable([stillness(embeds[scene]) for scene in scenes], lengths, len(embeds), total)
        groups, weights = _groups(scenes, static, budgets)
        shares = largest_remainder(weights, total, torch.tensor([g.shape[1] for g in groups]), floor=1)
        owner = torch.full((tokens.num_frames * tokens.capacity,), DROPPED, device=embeds.device)
        flat = embeds.flatten(0, 1)
        for group, share in zip(groups, shares.tolist(), strict=True):
            if share:
                points = flat[group].mean(dim=0, dtype=torch.float32)
                owner[group] = group[0][density_peaks(points, share, self.neighbours)]
        return merge_video(tokens, owner)

    def _affordable(
        self, similarity: list[Float[Tensor, " N"]], lengths: list[int], frames: int, total: int
    ) -> list[Bool[Tensor, " N"]]:
        """The static positions of each scene, the most similar first as long as `total` tokens remain to be kept."""
        scores = torch.stack(similarity)  # [scenes, N]
        saved = torch.tensor(lengths, device=scores.device)[:, None].expand_as(scores).flatten() - 1
        order = scores.flatten().argsort(descending=True, stable=True)
        fits = saved[order].cumsum(0) <= frames * scores.shape[1] - total
        static = torch.zeros_like(saved, dtype=torch.bool)
        static[order] = fits
        return list(static.reshape(scores.shape) & (scores > self.threshold))


def _groups(
    scenes: list[slice], static: list[Bool[Tensor, " N"]], budgets: Int[Tensor, " T"]
) -> tuple[list[Int[Tensor, "W n"]], Float[Tensor, " G"]]:
    """What is clustered together, as token numbers through the video, and the weight of each in the total.

    Rows of a group are frames: tokens of a column are averaged before clustering.
    """
    groups, weights = [], []
    for scene, still in zip(scenes, static, strict=True):
        frames = torch.arange(scene.start, scene.stop, device=still.device)[:, None] * len(still)
        parts = [(frames + torch.nonzero(still).T, float(budgets[scene].double().mean()))]
        moving = frames + torch.nonzero(~still).T
        parts += [(row[None], float(budget)) for row, budget in zip(moving, budgets[scene], strict=True)]
        for group, weight in parts:
            if group.shape[1]:
                groups.append(group)
                weights.append(weight * group.shape[1])
    return groups, torch.tensor(weights)
