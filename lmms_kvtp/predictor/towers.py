"""The trainable half of a predictor, which brings cached frames and text into one space."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmms_kvtp.encoders.parts.text_side import save_text_side, save_tokenizer, save_untuned_text_side
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.files import write_whole
from lmms_kvtp.predictor.features import Viewer, embeddings, patches, pixels
from lmms_kvtp.vlms.base import VideoVLM

Parts = Literal["head", "text", "all"]
"""Parts that are trained: head, what comes after the towers; text, the text tower, too; all, both towers, too."""


class Towers(nn.Module, ABC):
    """A frame side and a text side that meet in one space; training changes the encoder's own weights."""

    name: str
    """Checkpoint that training started from."""
    viewer: Viewer
    """View of the frames that `see` reads."""
    text_model: nn.Module

    def __init__(self, encoder: Siglip, parts: Parts) -> None:
        """Share scale and bias of a SigLIP, whose text tower is the text side."""
        super().__init__()
        self.encoder, self.parts = encoder, parts
        self.logit_scale: nn.Parameter = encoder.model.logit_scale  # logarithm of the factor on cosines
        self.logit_bias: nn.Parameter = encoder.model.logit_bias

    @abstractmethod
    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Embed frames, without normalizing."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that an encoder takes as `encoder.pretrained`."""

    @abstractmethod
    def save_slim(self, folder: Path) -> None:
        """Write only what training can have changed, in float16."""

    @final
    def trained(self) -> Sequence[str]:
        """List how the names of the parameters begin that `parts` stands for."""
        names = ("logit_", "head.", "text_model.", "vision_model.")
        return names[: {"head": 2, "text": 3, "all": 4}[self.parts]]

    @final
    def token_ids(self, text: str) -> Int[Tensor, "p l"]:
        """Split a text into pieces of tokens, as the encoder does at inference."""
        return torch.cat(self.encoder.token_ids(text))

    @final
    def read(self, ids: Int[Tensor, "p l"]) -> Float[Tensor, "p E"]:
        """Embed texts, without normalizing."""
        return cast(Tensor, self.text_model(input_ids=ids).pooler_output.float())

    @final
    def _save_text(self, folder: Path, dtype: torch.dtype) -> None:
        scale, bias = self.logit_scale.item(), self.logit_bias.item()
        save_text_side(folder, self.text_model, self.encoder.tokenizer, scale, bias, dtype)

    @final
    def _save_slim_text(self, folder: Path) -> None:
        """Write the text side in float16, or only its name where it was not trained."""
        if self.parts == "head":
            scale, bias = self.logit_scale.item(), self.logit_bias.item()
            save_untuned_text_side(folder, self.encoder.pretrained, scale, bias)
        else:
            self._save_text(folder, torch.float16)


class SiglipTowers(Towers):
    """A SigLIP whose vision tower is frozen, or trained from pixels."""

    def __init__(self, encoder: Siglip, parts: Parts = "text") -> None:
        """Share both of the encoder's towers."""
        super().__init__(encoder, parts)
        self.name = encoder.pretrained
        self.viewer = pixels(encoder) if parts == "all" else embeddings(encoder)
        self.text_model, self.vision_model = encoder.model.text_model, encoder.model.vision_model

    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Take embeddings from the cache, or from the vision tower as it is now."""
        if self.parts != "all":
            return seen.float()
        output = self.vision_model(pixel_values=seen.to(self.logit_scale.dtype))
        return cast(Tensor, output.pooler_output.float())

    def save(self, folder: Path) -> None:
        """Write a checkpoint that plain `AutoModel` loads, too."""
        self.encoder.model.save_pretrained(folder)
        save_tokenizer(folder, self.encoder.tokenizer)
        processor = self.encoder.companion("preprocessor_config.json")
        if processor is not None:
            write_whole(folder / processor.name, processor.read_bytes())

    def save_slim(self, folder: Path) -> None:
        """Write the text side, for `scorer.checkpoint`; ValueError where the vision tower was trained, too."""
        if self.parts == "all":
            raise ValueError("a predictor whose vision tower was trained has no slim form; use its folder")
        self._save_slim_text(folder)


class SharedTowers(Towers):
    """A light head on the tower of a vision-language model, which is frozen, and the text tower of a SigLIP."""

    def __init__(self, vlm: VideoVLM, encoder: Siglip, parts: Parts = "text") -> None:
        """Start from the SigLIP's text tower, and from its pooling head where that is of the tower's width.

        ValueError where the model's own tower is to be trained.
        """
        super().__init__(encoder, parts)
        if parts == "all":
            raise ValueError("parts=all with a shared tower: that tower is the model's own and stays; use text")
        self.name = f"tower of {vlm.name}, text side of {encoder.pretrained}"
        self.viewer = patches(vlm)
        fits = encoder.vision.hidden == vlm.vision.hidden
        sizes = encoder.vision if fits else vlm.vision
        embed = encoder.model.config.text_config.projection_size
        self.head = TowerHead(HeadShape(sizes.hidden, sizes.intermediate, sizes.heads, embed))
        self.head.to(encoder.model.device)
        if fits:
            self.head.start_from(encoder.model.vision_model)
        self.text_model = encoder.model.text_model

    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Embed pooled patches by the head."""
        return cast(Tensor, self.head(seen.float()))

    def save(self, folder: Path) -> None:
        """Write the folder that `encoder=tower` reads."""
        self.head.save(folder)
        self._save_text(folder, torch.float32)

    def save_slim(self, folder: Path) -> None:
        """Write the folder in float16; a text side that was not trained is only named."""
        self.head.save(folder, torch.float16)
        self._save_slim_text(folder)
