"""Qwen2.5-VL on transformers' own class."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmms_kvtp.cost.flops import MergedShape
from lmms_kvtp.vlms.qwen_vl import QwenVLM


class Qwen25VL(QwenVLM):
    """Qwen2.5-VL, dense: a tower with windows, and the time of a step in its rotary position.

    Source: Qwen2.5-VL (arXiv 2502.13923); frames, sizes and prompt as in lmms-eval's stock chat wrapper.
    """

    family: ClassVar[str] = "qwen2_5_vl"
    class_name: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"
    resizes_again: ClassVar[bool] = True
    run_defaults: ClassVar[Mapping[str, Any]] = {**QwenVLM.run_defaults, "rule": "qwen2_5_vl"}

    def tower_shape(self, vision: Any) -> MergedShape:
        """Read the sizes of the tower from its config."""
        window, full = vision.window_size // vision.patch_size, len(vision.fullatt_block_indexes)
        return replace(super().tower_shape(vision), gated=True, window=window, full_layers=full)

    def raster(self, patches: Float[Tensor, "R C"], grid: Int[Tensor, "1 3"]) -> Float[Tensor, "R C"]:
        """Bring patches of some steps from windows of blocks into rows."""
        steps, rows, columns = grid[0].tolist()
        side = self.vision.window // 2 if self.vision.window else 1  # blocks along a side of a window
        high, wide = rows // 2, columns // 2
        at = torch.arange(steps * high * wide, device=patches.device).view(steps, high, wide)
        windows = [part.flatten(1) for band in torch.split(at, side, dim=1) for part in torch.split(band, side, dim=2)]
        # step by step, and in a step window by window
        order = torch.cat(windows, dim=1).flatten()
        blocks = torch.empty_like(patches).view(len(order), 4, -1)
        blocks[order] = patches.view(len(order), 4, -1)
        return super().raster(blocks.flatten(0, 1), grid)
