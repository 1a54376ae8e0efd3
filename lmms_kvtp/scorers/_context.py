"""Relevance of frames in their context, from any encoder's embeddings."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.fusion import FusionHead

Logits = Callable[[Float[Tensor, "T E"], Float[Tensor, "q F"]], Float[Tensor, "q T"]]


def in_context(
    image: Float[Tensor, "T E"], text: Float[Tensor, "q F"], logits: Logits, head: FusionHead
) -> Float[Tensor, " T"]:
    """Logits of frame, clip and video, mixed (eq. 10 of KVTP); of a question in several pieces, the best counts."""
    return head.mix([logits(view, text) for view in head.views(image)]).amax(dim=0)
