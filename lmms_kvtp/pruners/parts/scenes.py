"""Scenes of a video, and what stays still in them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import ClassVar, Literal, TypeVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.device import send
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.parts.density_peaks import density_peaks, pairs_of
from lmms_kvtp.pruners.parts.groups import DROPPED, merge_video
from lmms_kvtp.pruners.parts.packing import check, chunks
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

L = TypeVar("L")


@dataclass(frozen=True)
class ScenePruner(TokenPruner):
    """A pruner that cuts the video where frames differ most, and keeps exactly the budgets of each scene's frames."""

    scope: ClassVar[Literal["frame", "video"]] = "video"
    searches: ClassVar[bool] = True

    scenes: int = 8
    """Least number of scenes, where there are as many frames."""
    scene_threshold: float = 0.9
    """Frames whose cosine with the one before is lower start a scene."""

    def __post_init__(self) -> None:
        """Refuse a video without scenes."""
        if self.scenes < 1:
            raise ValueError(f"scenes={self.scenes} must be at least 1")


@dataclass(frozen=True)
class StillPruner(TokenPruner):
    """Averages what stays still in a scene, and clusters it, and what moves in a frame; what is clustered is a segment.

    Pruners differ in the number of clusters. Those that keep exact budgets do not merge the least similar positions
    where too few tokens would be left.
    """

    scope: ClassVar[Literal["frame", "video"]] = "video"
    searches: ClassVar[bool] = True

    threshold: float = 0.8
    """Least similarity of a static position."""
    scenes: float = 0.25
    """Clusters of frames, as a part of their number; scenes are runs of frames, and may be fewer."""
    neighbours: int = 7
    """Neighbors that count for density in density-peak clustering."""

    @abstractmethod
    def shares(self, sizes: list[int], weights: Float[Tensor, " G"], total: int) -> list[int]:
        """Tell how many clusters each group of tokens becomes: the weights share the total by the budgets."""

    @final
    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Merge what is static over a scene, and cluster."""
        check(tokens, budgets)
        embeds, flat, frames = tokens.embeds, tokens.embeds.flatten(0, 1), tokens.num_frames
        lengths = segment(mean_tokens(embeds), int(self.scenes * frames), self.neighbours)
        starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
        scenes = [slice(start, stop) for start, stop in pairwise(starts)]
        scores = torch.stack([stillness(embeds[scene]) for scene in scenes])
        total = int(budgets.sum())
        static = affordable(scores, self.threshold, lengths, spare=len(flat) - (total if self.exact else 0))
        groups, weights = still_and_moving(scenes, static, budgets)
        shares = self.shares([group.shape[1] for group in groups], weights, total)
        owner = torch.full((len(flat),), DROPPED, device=flat.device)
        segment_of, flops = torch.zeros_like(owner), pairs_flops(1, pairs_of(frames), flat.shape[1])
        for number, (group, share) in enumerate(zip(groups, shares, strict=True)):
            segment_of[group] = number
            if share:
                points = averages(flat, group)
                owner[group] = group[0][density_peaks(points, share, self.neighbours)]
                flops += pairs_flops(1, pairs_of(len(points)), flat.shape[1])
        packed = merge_video(tokens, owner)
        return replace(packed, segment=segment_of[packed.frame * tokens.capacity + packed.patch], flops=flops)


def join(owners: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, " M"]:
    """Join the owners of consecutive scenes, numbered within each scene, to numbers through the video."""
    ends = torch.tensor([len(owner) for owner in owners]).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    moved = [torch.where(owner == DROPPED, DROPPED, owner + start) for owner, start in zip(owners, starts, strict=True)]
    return torch.cat(moved)


def mean_tokens(embeds: Float[Tensor, "T N D"]) -> Float[Tensor, "T D"]:
    """Average the tokens of each frame, in float32."""
    return torch.cat([embeds[part].mean(dim=1, dtype=torch.float32) for part in chunks(embeds)])


def stillness(scene: Float[Tensor, "W N D"]) -> Float[Tensor, " N"]:
    """Average the cosine between two different frames at each position; -inf for a single frame."""
    count = len(scene)
    if count == 1:
        return torch.full(scene.shape[1:2], -torch.inf, device=scene.device)
    total = torch.zeros(scene.shape[1:], device=scene.device)
    for frame in scene:
        total += F.normalize(frame.float(), dim=1)
    return (total.square().sum(dim=1) - count) / (count * (count - 1))  # |sum of unit vectors|^2 holds all pairs


def cut(frames: Float[Tensor, "T E"], at_least: int, threshold: float) -> list[int]:
    """Cut frames into scenes that end where the cosine of consecutive frames is below a threshold; return lengths.

    Where that gives fewer than `at_least` scenes, they also end at the least similar of the other frames. ValueError
    where a frame is NaN.
    """
    cosines = F.cosine_similarity(frames[1:].float(), frames[:-1].float(), dim=1).cpu()
    if torch.isnan(cosines).any():
        raise ValueError("similarities of frames hold NaN; look at the image features and their dtype")
    ends = cosines < threshold
    ends[cosines.argsort(stable=True)[: at_least - 1]] = True
    edges = [0, *(torch.nonzero(ends).flatten() + 1).tolist(), len(frames)]
    return [stop - start for start, stop in pairwise(edges)]


def segment(frames: Float[Tensor, "T D"], num_clusters: int, neighbours: int) -> list[int]:
    """Cut frames into runs of one cluster, after short runs have joined their neighbours; return their lengths.

    Source: PruneVid (arXiv 2412.16117), section 3.2.
    """
    labels = density_peaks(frames, max(num_clusters, 1), neighbours)
    return [length for _, length in _runs(refine(labels.tolist()))]


def refine(labels: list[int]) -> list[int]:
    """Keep the longest runs of each label, if longer than one frame; other runs join the longer run beside them.

    Runs join from left to right, and count as part of what they joined; of two equal neighbours the left one wins.
    """
    longest = {label: max(length for other, length in _runs(labels) if other == label) for label in labels}
    settled = [label if n == longest[label] > 1 else None for label, n in _runs(labels) for _ in range(n)]
    while None in settled:
        runs = _runs(settled)
        gap = [label for label, _ in runs].index(None)
        left = runs[gap - 1] if gap else (0, 0)
        right = runs[gap + 1] if gap + 1 < len(runs) else (0, 0)
        runs[gap] = (left[0] if left[1] >= right[1] else right[0], runs[gap][1])
        settled = [label for label, n in runs for _ in range(n)]
    return [label for label in settled if label is not None]


def _runs(labels: Sequence[L]) -> list[tuple[L, int]]:
    return [(label, len(list(run))) for label, run in groupby(labels)]


def affordable(scores: Float[Tensor, "S N"], threshold: float, lengths: list[int], spare: int) -> Bool[Tensor, "S N"]:
    """Mark positions as static whose score exceeds a threshold, the highest first, while at most `spare` tokens go.

    A static position leaves one token of the frames of its scene, whose numbers are `lengths`.
    """
    saved = torch.tensor(lengths, device=scores.device)[:, None].expand_as(scores).flatten() - 1
    order = scores.flatten().argsort(descending=True, stable=True)
    static = torch.zeros_like(saved, dtype=torch.bool)
    static[order] = saved[order].cumsum(0) <= spare
    return static.reshape(scores.shape) & (scores > threshold)


def still_and_moving(
    scenes: list[slice], static: Bool[Tensor, "S N"], budgets: Int[Tensor, " T"]
) -> tuple[list[Int[Tensor, "W n"]], Float[Tensor, " G"]]:
    """Group the tokens that share a part of the budget, by number through the video, and weigh each group.

    The rows of a group are frames: all of the scene's for its static positions, one for the tokens of a frame that
    move. A group weighs the budget of its frame, or the scene's mean, times its columns; groups without any are left
    out.
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


def averages(flat: Float[Tensor, "M D"], group: Int[Tensor, "W n"]) -> Float[Tensor, "n D"]:
    """Average each column of a group over its rows, in float32, a few frames at a time."""
    if len(group) == 1:
        return flat[group[0]].float()
    sums = [flat[group[part]].sum(dim=0, dtype=torch.float32) for part in chunks(group)]
    return torch.stack(sums).sum(dim=0) / len(group)


def change(embeds: Float[Tensor, "T N D"], reference: Int[Tensor, " T"]) -> Float[Tensor, "T N"]:
    """Compute 1 - cosine between each token and the one at the same patch of its frame's reference frame."""
    lengths = torch.cat([embeds[part].float().norm(dim=2) for part in chunks(embeds)]).clamp_min(1e-8)
    place = torch.empty_like(embeds[0], dtype=torch.float32)
    pairs = zip(embeds, (embeds[frame] for frame in reference.tolist()), strict=True)
    products = [torch.mul(frame.float(), other.float(), out=place).sum(dim=1) for frame, other in pairs]
    return 1 - torch.stack(products) / (lengths * lengths[send(reference, embeds.device)])
