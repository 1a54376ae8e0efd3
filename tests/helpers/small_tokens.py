"""A small video as pruners of single frames are given it."""

import torch

from lmms_kvtp.types import FrameFeatures, FrameTokens

# more frames than one chunk of the pruners' tests holds, see pruners/conftest.py
BUDGETS = [15, 0, 1, 7, 8, 9, 4, 14, 2, 15, 3, 5, 6, 10, 11, 12, 13, 1, 7]


def video(seed: int = 3) -> tuple[FrameTokens, FrameFeatures]:
    """A frame of 3 x 5 noisy tokens for each budget, and all that a pruner may read."""
    generator = torch.Generator().manual_seed(seed)
    frames = len(BUDGETS)
    return (
        FrameTokens(torch.randn(frames, 15, 8, generator=generator), (3, 5)),
        FrameFeatures(
            times=torch.zeros(frames),
            probe_attention=torch.rand(frames, 15, generator=generator),
            column_attention=torch.rand(frames, 15, generator=generator),
            keys=torch.randn(frames, 15, 6, generator=generator),
            layer_keys=torch.randn(frames, 15, 4, generator=torch.Generator().manual_seed(seed + 1)),
            patch_text=torch.randn(frames, 15, 9, generator=generator),
            text=torch.randn(2, 9, generator=generator),
        ),
    )
