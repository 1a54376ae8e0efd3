"""The relevance predictor as a trainable module: two towers and the context fusion head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lmms_kvtp.files import written_whole
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.predictor.towers import Towers
from lmms_kvtp.questions import question_text
from lmms_kvtp.scorers.parts.fusion import FusionHead, pool_clips


@dataclass(frozen=True)
class Objective:
    """Loss of the logits of one question on one video, -sum log sigmoid(logit * (label - mean label)).

    A frame above the mean label is pulled up and one below it down, each in proportion to its distance. Where all
    labels are equal, as for questions on the whole video, that has no gradient: `flatness` then is all that counts.

    Source: KVTP (arXiv 2503.10742), eq. 4, 5 and 11. The paper prints the sum over frames; its release pools logits
    per clip and takes the label of the clip's first frame, which is the default here.
    """

    level: Literal["clip", "frame"] = "clip"
    """Unit that has a label. clip: as in the release, that of its first frame. frame: as in the paper's equation."""
    pooling: Literal["softmax", "max"] = "softmax"
    """Way in which the logits of a clip become one; only read where a clip has a label."""
    clip_size: int = 8
    """Frames of a clip."""
    flatness: float = 0.0
    """Weight of sum (logit - mean logit)^2 on questions whose labels are all equal; 0 as in the paper."""

    def __post_init__(self) -> None:
        """Refuse a weight that rewards steep scores instead of flat ones."""
        if not (self.flatness >= 0 and math.isfinite(self.flatness)):
            raise ValueError(f"flatness={self.flatness} is no weight; give a number of at least 0, such as 0.3")

    def __call__(self, logits: Float[Tensor, "q T"], labels: Float[Tensor, " T"]) -> Float[Tensor, ""]:
        """Compute the loss of one question; its pieces of text, rows of `logits`, compete for each frame or clip.

        Labels are the relevance of the frames, 0 to 5.
        """
        scores = self.scores(logits)
        wanted = labels if self.level == "frame" else labels[:: self.clip_size]
        loss = -F.logsigmoid(scores * (wanted - wanted.mean())).sum()
        if self.flatness and (labels == labels[0]).all():
            loss = loss + self.flatness * (scores - scores.mean()).square().sum()
        return loss

    def scores(self, logits: Float[Tensor, "q T"]) -> Float[Tensor, " S"]:
        """Reduce logits to those that are compared with labels: one per frame or clip, of the best piece of text."""
        best = logits.amax(dim=0)
        return best if self.level == "frame" else pool_clips(best[None], self.clip_size, self.pooling)[0]


@dataclass(frozen=True)
class Lesson:
    """A video with its questions in tokens, as the module reads them."""

    image: Float[Tensor, "T *seen"]
    ids: Int[Tensor, "p l"]
    """Token ids of every piece of every question."""
    owner: Int[Tensor, " p"]
    """Question that each piece belongs to."""
    labels: Float[Tensor, "q T"]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Lesson":
        """Move all tensors to a device; accelerate calls this."""
        return Lesson(*(getattr(self, part.name).to(device, non_blocking=non_blocking) for part in fields(self)))

    def only(self, questions: Int[Tensor, " k"]) -> "Lesson":
        """Keep some of the questions, given in ascending order."""
        pieces = torch.isin(self.owner, questions)
        owner = torch.searchsorted(questions, self.owner[pieces])
        return Lesson(self.image, self.ids[pieces], owner, self.labels[questions])


def lesson(video: CachedVideo, towers: Towers) -> Lesson:
    """Put a video's questions into tokens, as the scorer will at inference."""
    pieces = [towers.token_ids(question_text(question)) for question in video.example.questions]
    owner = [index for index, ids in enumerate(pieces) for _ in ids]
    return Lesson(video.image, torch.cat(pieces), torch.tensor(owner), video.labels())


class Predictor(nn.Module):
    """Logits of every frame for every question, and their loss."""

    def __init__(self, towers: Towers, head: FusionHead, objective: Objective) -> None:
        """Freeze what `towers` do not train; temperatures and offsets of `head` become parameters."""
        super().__init__()
        self.towers = towers
        device = towers.logit_scale.device
        self.log_tau = nn.Parameter(head.log_tau.clone().float().to(device))
        width = towers.text_model.get_parameter("head.bias").shape[0]
        self.offsets = nn.Parameter(torch.zeros(head.anchors, width, device=device), requires_grad=head.anchors > 0)
        self.head, self.objective = head, objective
        trained = tuple(towers.trained())
        for name, parameter in towers.named_parameters():
            parameter.requires_grad_(name.startswith(trained))

    def forward(self, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        """Compute the mean loss over all questions.

        FloatingPointError where it is not finite, here or in another process; no parameter has been changed by it.
        """
        losses = [
            self.objective(logits, labels)
            for each in lessons
            for logits, labels in zip(self.logits(each), each.labels, strict=True)
        ]
        loss = torch.stack(losses).mean()
        if not _everywhere(torch.isfinite(loss)):
            found = "not finite in another process" if torch.isfinite(loss) else loss.item()
            raise FloatingPointError(f"the loss is {found}; lower the learning rate, or check the labels")
        return {"loss": loss}

    def logits(self, each: Lesson) -> list[Float[Tensor, "_ T"]]:
        """Compute the mixed logits of each question's pieces."""
        text = F.normalize(self.towers.read(each.ids), dim=-1)
        scale, bias = self.towers.logit_scale.float().exp(), self.towers.logit_bias.float()
        head = self.trained_head()
        mixed = head.mix([text @ view.T * scale + bias for view in head.views(self.towers.see(each.image))])
        return [mixed[each.owner == question] for question in range(len(each.labels))]

    def trained_head(self) -> FusionHead:
        """Make a head of the temperatures and offsets as they are now."""
        return replace(self.head, log_tau=self.log_tau, offsets=self.offsets)

    def save(self, folder: Path, slim: Path | None = None) -> None:
        """Write a folder that `encoder.pretrained` takes, and maybe the slim form: each whole, with the fusion head."""
        for place, save in ((folder, self.towers.save), (slim, self.towers.save_slim)):
            if place is not None:
                with written_whole(place) as new:
                    save(new)
                    self.trained_head().save(new)


def _everywhere(fine: Bool[Tensor, ""]) -> bool:
    """Tell whether all processes are fine; if only one stopped, the others would wait for its gradients."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return bool(fine)
    agreed = fine.int()
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
    return bool(agreed)
