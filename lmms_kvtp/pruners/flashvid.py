"""FlashVID: diverse salient tokens of each frame, and trees of alike tokens through time."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import pairs_flops
from lmms_kvtp.pruners.parts.density_peaks import density_peaks
from lmms_kvtp.pruners.parts.groups import DROPPED, group, group_sums, merge_video
from lmms_kvtp.pruners.parts.packing import check, chunks, read, refuse_nan
from lmms_kvtp.pruners.parts.scenes import ScenePruner, join, mean_tokens
from lmms_kvtp.pruners.parts.spread import distances, farthest
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


@dataclass(frozen=True)
class FlashVid(ScenePruner):
    """Keeps distant, attended tokens that suit their scene, and averages the others along trees through its frames.

    Scenes end where the mean tokens of consecutive frames differ most. In a frame, a greedy max-min selection weighs
    the distance of a candidate by its attention and by its relevance to the scene. Each other token joins the token
    of the frame before that it resembles most, if alike enough. Trees are averaged, and clustered down to what the
    budgets of the scene leave; where they leave more, the weakest joints are cut, so that a scene keeps exactly the
    budgets of its frames. An average stands at the root of its tree.

    Source: FlashVID (arXiv 2602.08024), the part before the language model. Relevance is (1 + cosine) / 2, averaged
    over the mean tokens of the scene's frames, so that it cannot turn a distance negative.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"column_attention"})
    paper: ClassVar[str] = "FlashVID, arXiv 2602.08024"

    salient: float = 0.7
    """Part of a frame's budget, rounded to the nearest token, that is selected and not merged."""
    tree_threshold: float = 0.8
    """Least cosine of a joint."""
    neighbours: int = 7
    """Neighbors that count for density in density-peak clustering."""

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        super().__post_init__()
        if not 0 <= self.salient <= 1:
            raise ValueError(f"salient={self.salient} is outside [0, 1]; it is a part of the budget")

    def prune(self, tokens: FrameTokens, features: FrameFeatures, budgets: Int[Tensor, " T"]) -> PackedTokens:
        """Keep as many tokens of each scene as its frames have budgets."""
        check(tokens, budgets)
        attention, embeds = read(features, "column_attention", tokens).float(), tokens.embeds
        refuse_nan(attention, "attention")
        means = F.normalize(mean_tokens(embeds), dim=1)
        lengths = self.cut(means)
        scenes = torch.split(embeds, lengths)
        suits = torch.cat([_suits(*part) for part in zip(scenes, torch.split(means, lengths), strict=True)])
        num_salient = (budgets * self.salient + 0.5).long()
        salient = farthest(distances(embeds), num_salient, attention * suits)
        rest = [int(part.sum()) for part in torch.split(budgets - num_salient, lengths)]
        trees = [self._trees(*part) for part in zip(scenes, torch.split(salient, lengths), rest, strict=True)]
        owners, compared = zip(*trees, strict=True)
        frames, capacity, width = embeds.shape
        flops = pairs_flops(frames * capacity, capacity, width) + pairs_flops(1, sum(compared), width)
        return replace(merge_video(tokens, join(owners)), flops=flops)

    def _trees(
        self, scene: Float[Tensor, "L N D"], salient: Bool[Tensor, "L N"], count: int
    ) -> tuple[Int[Tensor, " M"], int]:
        """Find the token of the scene at which each token's average stands, `count` of them beside the salient ones.

        Also count the pairs of tokens that were compared.
        """
        capacity = scene.shape[1]
        owner = torch.arange(salient.numel(), device=scene.device)
        rest = torch.nonzero(~salient.flatten()).flatten()
        if not count:
            return owner.index_fill(0, rest, DROPPED), 0
        compared = (len(scene) - 1) * capacity**2
        parent, alike = _joints(scene, salient)
        joined = torch.nonzero(alike > self.tree_threshold).flatten()
        spare = len(rest) - count  # each joint leaves one tree less
        joined = joined[alike[joined].argsort(descending=True, stable=True)[:spare]].sort().values
        for frame in range(1, len(scene)):
            here = joined[(joined >= frame * capacity) & (joined < (frame + 1) * capacity)]
            owner[here] = owner[parent[here]]  # earlier frames know their roots
        roots, tree = torch.unique(owner[rest], return_inverse=True)
        if len(roots) > count:
            groups = group(tree[None], len(roots), torch.zeros_like(tree[:1]))
            sums = group_sums(scene.flatten(0, 1)[rest][None], groups)
            centres = density_peaks(sums / groups.sizes[0][:, None], count, self.neighbours)
            owner[rest] = roots[centres][tree]
            compared += len(roots) ** 2
        return owner, compared


def _suits(scene: Float[Tensor, "L N D"], means: Float[Tensor, "L D"]) -> Float[Tensor, "L N"]:
    """Score the relevance of each token to its scene."""
    mean = means.mean(dim=0)
    return torch.cat([(1 + F.normalize(scene[part].float(), dim=2) @ mean) / 2 for part in chunks(scene)])


def _joints(
    scene: Float[Tensor, "L N D"], salient: Bool[Tensor, "L N"]
) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
    """Find each token's most similar one of the frame before, salient ones left out, and its cosine; -inf for none."""
    capacity = scene.shape[1]
    parent = torch.zeros(salient.numel(), dtype=torch.int64, device=scene.device)
    alike = torch.full((salient.numel(),), -torch.inf, device=scene.device)
    before = F.normalize(scene[0].float(), dim=1)
    for frame in range(1, len(scene)):
        unit = F.normalize(scene[frame].float(), dim=1)
        cosines = (unit @ before.T).masked_fill(salient[frame - 1], -torch.inf)
        best = cosines.masked_fill(salient[frame][:, None], -torch.inf).max(dim=1)
        cells = slice(frame * capacity, (frame + 1) * capacity)
        parent[cells], alike[cells] = best.indices + (frame - 1) * capacity, best.values
        before = unit
    return parent, alike
