"""The relevance predictor as a trainable module: a SigLIP and the context fusion head."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.fusion import FusionHead
from lmms_kvtp.refine import question_text
from lmms_kvtp.training.predictor.features import SeenVideo
from lmms_kvtp.training.predictor.objective import Objective

Parts = Literal["head", "text"]
"""What is trained: the fusion head with logit scale and bias, or these and the text tower. The vision tower is frozen:
its features come from the cache."""


@dataclass(frozen=True)
class Lesson:
    """A video with its questions, as the module reads them."""

    image: Float[Tensor, "T E"]
    ids: Int[Tensor, "p l"]
    """Token ids of every piece of every question."""
    owner: Int[Tensor, " p"]
    """The question that each piece belongs to."""
    labels: Float[Tensor, "q T"]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Lesson":
        """The same on a device; accelerate calls this."""
        return Lesson(*(getattr(self, part.name).to(device, non_blocking=non_blocking) for part in fields(self)))


def lesson(video: SeenVideo, encoder: Siglip) -> Lesson:
    """Put a video's questions into tokens, as the scorer will at inference."""
    pieces = [torch.cat(encoder.token_ids(question_text(question))) for question in video.example.questions]
    owner = [index for index, ids in enumerate(pieces) for _ in ids]
    return Lesson(video.image, torch.cat(pieces), torch.tensor(owner), video.labels())


class Predictor(nn.Module):
    """Logits of every frame for every question, and their loss."""

    def __init__(self, siglip: Any, head: FusionHead, objective: Objective, parts: Parts) -> None:
        """Freeze all but `parts` of `siglip`; the temperatures of `head` become parameters."""
        super().__init__()
        self.siglip = siglip
        self.log_tau = nn.Parameter(head.log_tau.clone().float())
        self.head, self.objective = head, objective
        trained = {"head": ("logit_",), "text": ("logit_", "text_model.")}[parts]
        for name, parameter in siglip.named_parameters():
            parameter.requires_grad_(name.startswith(trained))

    def forward(self, lessons: Sequence[Lesson]) -> dict[str, Tensor]:
        """Mean loss over all questions.

        Raises:
            FloatingPointError: the loss is not finite; no parameter has been changed by it.
        """
        losses = [
            self.objective(logits, labels)
            for each in lessons
            for logits, labels in zip(self.logits(each), each.labels, strict=True)
        ]
        loss = torch.stack(losses).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}; lower the learning rate, or look at the labels")
        return {"loss": loss}

    def logits(self, each: Lesson) -> list[Float[Tensor, "_ T"]]:
        """For each question, the mixed logits of its pieces."""
        text = F.normalize(self.siglip.text_model(input_ids=each.ids).pooler_output.float(), dim=-1)
        scale, bias = self.siglip.logit_scale.float().exp(), self.siglip.logit_bias.float()
        head = self.trained_head()
        mixed = head.mix([text @ view.T * scale + bias for view in head.views(each.image)])
        return [mixed[each.owner == question] for question in range(len(each.labels))]

    def trained_head(self) -> FusionHead:
        """The head with its temperatures as they are now."""
        return replace(self.head, log_tau=self.log_tau)

    def save(self, folder: Path, encoder: Siglip) -> None:
        """Write a folder that `encoder.pretrained` takes, and plain `AutoModel` too, with the head beside it."""
        self.siglip.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        processor = encoder.companion("preprocessor_config.json")
        if processor is not None:
            (folder / processor.name).write_bytes(processor.read_bytes())
        self.trained_head().save(folder)
