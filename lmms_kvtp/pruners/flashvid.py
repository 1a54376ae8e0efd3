"""FlashVID: diverse salient tokens of each frame, and trees of alike tokens through time."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from lmms_kvtp.allocators.base import at_one_rate
from lmms_kvtp.pruners.parts.trees import TreePruner


@dataclass(frozen=True)
class FlashVid(TreePruner):
    """Keeps distant, attended tokens that suit their scene, and merges the others along trees through its frames.

    Scenes end where the mean tokens of consecutive frames differ most. In a frame, a greedy max-min selection weighs
    the distance of a candidate by its attention and by its relevance to the scene: its product with the mean token of
    the scene. Each other token joins the token of the frame before that it resembles most, if alike enough; where that
    leaves fewer tokens than the budgets of the scene, the weakest joints are cut. A tree is the sum of its tokens over
    1 + the number of those that joined its root itself, so that a chain grows. The trees of each frame are clustered
    down to what the budgets leave, all frames in proportion, and averaged; a scene of one frame clusters its tokens.
    A scene keeps exactly the budgets of its frames, and no token twice.

    Source: FlashVID (arXiv 2602.08024) as released, the part before the language model; pruners/flashvid_release.py
    has the release's counts, too.
    """

    paper: ClassVar[str] = "FlashVID, arXiv 2602.08024"

    def clusters(self, trees: Int[Tensor, " L"], count: int) -> Int[Tensor, " L"]:
        """Round up at the rate whose sum is exact."""
        return at_one_rate(trees.double(), trees, count)
