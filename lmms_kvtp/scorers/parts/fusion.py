"""KVTP's context fusion head: what a frame shows, what its clip shows, and what the whole video shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save
from torch import Tensor

from lmms_kvtp.device import send
from lmms_kvtp.encoders.parts.predictor import FUSION
from lmms_kvtp.files import from_json, loading, write_json, write_whole

SETTINGS, WEIGHTS = FUSION


@dataclass(frozen=True)
class FusionHead:
    """Clip size, weights and temperatures of the head; the defaults are the paper's head before any training.

    Source: KVTP (arXiv 2503.10742), section 4.1; weights 0.05 and temperatures of 1 as in its released training code.
    """

    clip_size: int = 8
    """Frames of a clip."""
    local_weight: float = 0.05
    """theta of eq. 10: the share of the logits that a frame's clip has."""
    global_weight: float = 0.05
    """phi of eq. 10: the share of the logits that the whole video has."""
    queries: Literal["normalized", "raw"] = "normalized"
    """normalized: cosines, as released. raw: the frame's embedding at its own length, as eq. 6 and 7 are printed."""
    log_tau: Float[Tensor, " 2"] = field(default_factory=lambda: torch.zeros(2), compare=False)
    """Logarithms of the local and the global temperature."""
    anchors: int = 0
    """Places spread evenly over the video, each with an offset that training learns; 0, as in the paper: a frame does
    not know where in the video it stands, so nothing can tell the first frames from the last."""
    offsets: Float[Tensor, "k E"] = field(default_factory=lambda: torch.zeros(0, 0), compare=False)
    """Vectors added to frames at the anchors, in lengths of the frame's embedding; between two anchors both count.
    There are none before training."""

    def __post_init__(self) -> None:
        """Refuse clips without frames, a single anchor, and weights that leave nothing for the frame itself."""
        if self.clip_size < 1:
            raise ValueError(f"clip_size={self.clip_size} is not a number of frames; the least is 1")
        if self.anchors < 0 or self.anchors == 1:
            raise ValueError(f"anchors={self.anchors} cannot tell places apart; use 2 or more, or 0 for none")
        if not (self.local_weight >= 0 and self.global_weight >= 0 and self.local_weight + self.global_weight <= 1):
            raise ValueError(
                f"local_weight={self.local_weight} and global_weight={self.global_weight} are not shares; "
                "both are at least 0 and their sum is at most 1"
            )

    def views(self, frames: Float[Tensor, "T E"]) -> list[Float[Tensor, "T E"]]:
        """Give each frame as it is, mixed with its clip (eq. 6) and mixed with the video (eq. 7), of unit length.

        Frames are pooled image embeddings, not normalised. ValueError where the head has offsets of another width.
        """
        frames = self._placed(frames)
        keys = frames / (frames.norm(dim=-1, keepdim=True) + 1e-6)
        queries = keys if self.queries == "normalized" else frames
        local_tau, global_tau = send(self.log_tau, frames.device).exp()
        similarity = queries @ keys.T / frames.shape[1] ** 0.5  # [T, T]
        clip = send(clips(len(frames), self.clip_size), frames.device)
        elsewhere = clip[:, None] != clip
        local = (similarity / local_tau).masked_fill(elsewhere, -torch.inf).softmax(dim=-1) @ frames
        whole = (similarity / global_tau).softmax(dim=-1) @ frames
        return [F.normalize(view, dim=-1) for view in (frames, local, whole)]

    def mix(self, logits: Sequence[Float[Tensor, "*q T"]]) -> Float[Tensor, "*q T"]:
        """Weigh the logits of the three views (eq. 10)."""
        own, local, whole = logits
        rest = 1 - self.local_weight - self.global_weight
        return rest * own + self.local_weight * local + self.global_weight * whole

    def save(self, folder: Path) -> None:
        """Write the head's two files into `folder`."""
        learned = {"log_tau": self.log_tau, "offsets": self.offsets} if len(self.offsets) else {"log_tau": self.log_tau}
        settings = {each.name: getattr(self, each.name) for each in fields(self) if each.compare}
        write_json(folder / SETTINGS, settings)
        tensors = {name: part.detach().float().cpu().contiguous() for name, part in learned.items()}
        write_whole(folder / WEIGHTS, save(tensors))

    @staticmethod
    def load(settings: Path, weights: Path) -> "FusionHead":
        """Read what `save` wrote; ValueError names a file that is damaged or holds something else."""
        with loading(f"no fusion head in {settings} and {weights}"):
            learned = load_file(weights)
            log_tau = learned["log_tau"]
            if tuple(log_tau.shape) != (2,) or not torch.isfinite(log_tau).all():
                raise ValueError(f"log_tau is {log_tau.tolist()}, wanted two finite numbers")
            offsets = learned.get("offsets", torch.zeros(0, 0))
            head = FusionHead(**from_json(settings.read_bytes()), log_tau=log_tau, offsets=offsets)
            if len(head.offsets) != head.anchors or not torch.isfinite(head.offsets).all():
                raise ValueError(f"{len(head.offsets)} offsets for {head.anchors} anchors, or one that is no number")
            return head

    def _placed(self, frames: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Add to frames what was learned about their place in the video."""
        if not len(self.offsets):
            return frames
        if self.offsets.shape[1] != frames.shape[1]:
            raise ValueError(
                f"a fusion head with offsets of width {self.offsets.shape[1]} cannot read frames of width "
                f"{frames.shape[1]}; give the predictor that was trained for this encoder"
            )
        place = torch.linspace(0, len(self.offsets) - 1, len(frames), device=frames.device)
        left = place.long().clamp(max=len(self.offsets) - 2)
        offsets = send(self.offsets, frames.device)
        offset: Tensor = offsets[left].lerp(offsets[left + 1], (place - left)[:, None])
        lengths: Tensor = frames.norm(dim=-1, keepdim=True)
        return frames + lengths * offset


def clips(num_frames: int, size: int) -> Int[Tensor, " T"]:
    """Number the clip that each frame belongs to; the last clip may be short."""
    return torch.arange(num_frames) // size


def pool_clips(
    logits: Float[Tensor, "q T"], size: int, mode: Literal["softmax", "max"] = "softmax"
) -> Float[Tensor, "q C"]:
    """Pool logits to one per clip of `size` frames: the largest, or the mean weighted by the frames' own softmax."""
    short = -logits.shape[1] % size
    by_clip = F.pad(logits, (0, short), value=-torch.inf).view(len(logits), -1, size)
    if mode == "max":
        return torch.amax(by_clip, dim=-1)
    weighted = by_clip.softmax(dim=-1) * by_clip.masked_fill(by_clip == -torch.inf, 0.0)
    return torch.sum(weighted, dim=-1)
