"""Spatial pooling of per-frame patch maps, as the vision-language model does it."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MODES = ("bilinear", "average", "max")


@dataclass(frozen=True)
class GridPool:
    """LLaVA-Video's pooling with stride 2 of a frame's patch grid: bilinear rounds up, average and max round down.

    Source: LLaVA-Video (arXiv 2410.02713); sizes and modes as in its released code.
    """

    mode: str
    patches: tuple[int, int]
    """Rows and columns of the vision tower's grid."""
    stride: int = 2

    def __post_init__(self) -> None:
        """Refuse an unknown mode by name."""
        if self.mode not in MODES:
            raise ValueError(f"unknown pooling {self.mode!r}; this model family has {', '.join(MODES)}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns after pooling."""
        rows, columns = self.patches
        up = self.stride - 1 if self.mode == "bilinear" else 0
        return (rows + up) // self.stride, (columns + up) // self.stride

    def __call__(self, patches: Float[Tensor, "T P C"]) -> Float[Tensor, "T N C"]:
        """Pool features whose P patches lie in raster order."""
        return self.pool_map(patches.reshape(len(patches), *self.patches, -1))

    def pool_map(self, patches: Float[Tensor, "T r c C"]) -> Float[Tensor, "T N C"]:
        """Pool a map of any size to this grid: the model's operator on its own grid, area averages on another one."""
        maps = patches.permute(0, 3, 1, 2)
        if tuple(maps.shape[2:]) != self.patches:
            pooled = F.adaptive_avg_pool2d(maps, self.grid)
        elif self.mode == "bilinear":
            pooled = F.interpolate(maps, size=self.grid, mode="bilinear", align_corners=False)
        elif self.mode == "average":
            pooled = F.avg_pool2d(maps, self.stride)
        else:
            pooled = F.max_pool2d(maps, self.stride)
        return pooled.flatten(2).transpose(1, 2)
