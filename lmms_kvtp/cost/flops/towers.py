"""Operations of the towers and of SigLIP's head, from shapes."""

from collections.abc import Sequence, Set
from dataclasses import dataclass


@dataclass(frozen=True)
class VisionShape:
    """Sizes of a vision transformer, from its config."""

    image_size: int
    """Pixels of a side."""
    patch_size: int
    hidden: int
    intermediate: int
    layers: int
    """Layers that run."""
    heads: int

    @property
    def patches(self) -> int:
        """Patches of a frame; pixels that fill no whole patch are dropped."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class TextShape:
    """Sizes of an image-text model's text tower, from its config."""

    hidden: int
    intermediate: int
    layers: int
    projection: int
    """Width of the joint space, which a linear layer maps the pooled position to."""


def vision_flops(shape: VisionShape, frames: int) -> int:
    """Patch embedding and transformer layers over `frames` frames.

    Per frame of P patches and width d: 2 P 3 p^2 d for the convolution over patches of p pixels, and the layers.
    """
    embedding = 2 * shape.patches * 3 * shape.patch_size**2 * shape.hidden
    return frames * (embedding + shape.layers * encoder_layer_flops(shape.patches, shape.hidden, shape.intermediate))


def encoder_layer_flops(positions: int, hidden: int, intermediate: int) -> int:
    """One layer in which n positions of width d see each other.

    Four projections 8 n d^2, scores and mixing 4 n^2 d, an MLP of two matrices 4 n d m.
    """
    return positions * hidden * (8 * hidden + 4 * positions + 4 * intermediate)


def pooling_head_flops(shape: VisionShape, frames: int, patches: int | None = None) -> int:
    """SigLIP's attention pooling: one probe attends to all patches, then an MLP on the pooled vector.

    Keys and values of P patches 4 P d^2, query and output 4 d^2, scores and mixing 4 P d, MLP 4 d m.

    Args:
        shape: of the tower.
        frames: how often the head runs.
        patches: P; all of a frame by default, 1 where each patch is pooled alone.
    """
    p, d, m = shape.patches if patches is None else patches, shape.hidden, shape.intermediate
    return frames * (4 * p * d * d + 4 * d * d + 4 * p * d + 4 * d * m)


def text_flops(shape: TextShape, lengths: Sequence[int]) -> int:
    """SigLIP's text tower over rows of `lengths` positions: its layers, and 2 d E for the last position of each row."""
    layers = sum(encoder_layer_flops(n, shape.hidden, shape.intermediate) for n in lengths)
    return shape.layers * layers + len(lengths) * 2 * shape.hidden * shape.projection


def features_flops(shape: VisionShape, frames: int, needs: Set[str], projected_keys: bool = False) -> int:
    """A SigLIP's features of frames: tower and head once, and what single patches need beside them.

    Scores of the last layer again 2 P^2 d for column attention, 2 P d^2 for projected keys, and for patches in the
    joint space the head over each of them.
    """
    if not needs:
        return 0
    p = shape.patches
    extra = {
        "column_attention": frames * 2 * p * p * shape.hidden,
        "keys": frames * 2 * p * shape.hidden**2 if projected_keys else 0,
        "patch_text": pooling_head_flops(shape, frames * p, patches=1),
    }
    once = vision_flops(shape, frames) + pooling_head_flops(shape, frames)
    return once + sum(extra.get(name, 0) for name in needs)


def relevance_flops(shape: TextShape, lengths: Sequence[int], frames: int, views: int = 1) -> int:
    """Text tower over rows of `lengths` positions, and cosines with `views` image embeddings of each frame."""
    return text_flops(shape, lengths) + cosine_flops(len(lengths), frames, shape.projection, views)


def cosine_flops(rows: int, frames: int, width: int, views: int = 1) -> int:
    """Cosines of q rows of text with `views` image embeddings of each frame.

    2 q T E for each view; more views than one are KVTP's three, which its fusion head makes by 6 T^2 E.
    """
    mixed = 6 * frames**2 * width if views > 1 else 0
    return views * 2 * rows * frames * width + mixed
