"""Relevance of frames in their context, from any encoder's embeddings."""

import logging
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from lmms_kvtp.encoders.base import FrameEncoder
from lmms_kvtp.scorers.parts.fusion import SETTINGS, WEIGHTS, FusionHead

logger = logging.getLogger(__name__)
Logits = Callable[[Float[Tensor, "T E"], Float[Tensor, "q F"]], Float[Tensor, "q T"]]


def in_context(
    image: Float[Tensor, "T E"], text: Float[Tensor, "q F"], logits: Logits, head: FusionHead
) -> Float[Tensor, " T"]:
    """Logits of frame, clip and video, mixed (eq. 10 of KVTP); of a question in several pieces, the best counts."""
    return head.mix([logits(view, text) for view in head.views(image)]).amax(dim=0)


def head_beside(encoder: FrameEncoder) -> FusionHead:
    """The fusion head that was trained with the encoder's weights; where there is none, the head before training.

    Raises:
        ValueError: its files are damaged.
    """
    settings, weights = encoder.companion(SETTINGS), encoder.companion(WEIGHTS)
    if settings is None or weights is None:
        logger.info("no trained fusion head beside the encoder; using the head as it is before training")
        return FusionHead()
    return FusionHead.load(settings, weights)
