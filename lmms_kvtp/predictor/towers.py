"""The trainable half of a predictor, which brings cached frames and text into one space."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lmms_kvtp.encoders.parts.text_side import save_text_side, save_tokenizer, save_untuned_text_side
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.predictor.features import Viewer, embeddings, patches, pixels
from lmms_kvtp.vlms.llava_video import LlavaVideo

Parts = Literal["head", "text", "all"]
"""Parts that are trained: head, what comes after the towers; text, the text tower, too; all, both towers, too."""


class Towers(nn.Module, ABC):
    """A frame side and a text side that meet in one space."""

    name: str
    """Checkpoint that training started from."""
    encoder: Siglip
    """SigLIP whose text side this is."""
    parts: Parts
    """Parts that are trained."""
    viewer: Viewer
    """View of the frames that `see` reads."""
    text_model: nn.Module
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter

    @abstractmethod
    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Embed frames, without normalizing."""

    @abstractmethod
    def trained(self) -> Sequence[str]:
        """List how the names of the parameters begin that `parts` stands for."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that an encoder takes as `encoder.pretrained`."""

    @abstractmethod
    def save_slim(self, folder: Path) -> None:
        """Write only what training can have changed, in float16."""

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
        """Share the encoder's model; training changes it."""
        super().__init__()
        self.name, self.encoder, self.parts = encoder.pretrained, encoder, parts
        self.viewer = pixels(encoder) if parts == "all" else embeddings(encoder)
        self.siglip: Any = encoder.model

    @property
    def text_model(self) -> nn.Module:  # type: ignore[override]
        """The text tower."""
        return cast(nn.Module, self.siglip.text_model)

    @property
    def logit_scale(self) -> nn.Parameter:  # type: ignore[override]
        """Logarithm of the factor on cosines."""
        return cast(nn.Parameter, self.siglip.logit_scale)

    @property
    def logit_bias(self) -> nn.Parameter:  # type: ignore[override]
        """Offset of logits."""
        return cast(nn.Parameter, self.siglip.logit_bias)

    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Take embeddings from the cache, or from the vision tower as it is now."""
        if self.parts != "all":
            return seen.float()
        output = self.siglip.vision_model(pixel_values=seen.to(self.logit_scale.dtype))
        return cast(Tensor, output.pooler_output.float())

    def trained(self) -> Sequence[str]:
        """List beginnings of names in the SigLIP; the fusion head is not part of it."""
        names = {"head": ("siglip.logit_",), "text": ("siglip.logit_", "siglip.text_model."), "all": ("siglip.",)}
        return names[self.parts]

    def save(self, folder: Path) -> None:
        """Write a checkpoint that plain `AutoModel` loads, too."""
        self.siglip.save_pretrained(folder)
        save_tokenizer(folder, self.encoder.tokenizer)
        processor = self.encoder.companion("preprocessor_config.json")
        if processor is not None:
            (folder / processor.name).write_bytes(processor.read_bytes())

    def save_slim(self, folder: Path) -> None:
        """Write the text side, for `scorer.checkpoint`; ValueError where the vision tower was trained, too."""
        if self.parts == "all":
            raise ValueError("a predictor whose vision tower was trained has no slim form; use its folder")
        self._save_slim_text(folder)


class SharedTowers(Towers):
    """A light head on the tower of a vision-language model, which is frozen, and the text tower of a SigLIP."""

    def __init__(self, vlm: LlavaVideo, encoder: Siglip, parts: Parts = "text") -> None:
        """Start from the SigLIP's text tower, and from its pooling head where that is of the tower's width.

        ValueError where the model's own tower is to be trained.
        """
        super().__init__()
        if parts == "all":
            raise ValueError("parts=all with a shared tower: that tower is the model's own and stays; use text")
        self.name = f"tower of {vlm.name}, text side of {encoder.pretrained}"
        self.encoder, self.parts = encoder, parts
        self.viewer = patches(vlm)
        siglip: Any = encoder.model
        vision, sizes = siglip.config.vision_config, vlm.vision
        inner, heads = sizes.intermediate, sizes.heads
        if fits := vision.hidden_size == sizes.hidden:
            inner, heads = vision.intermediate_size, vision.num_attention_heads
        shape = HeadShape(sizes.hidden, inner, heads, siglip.config.text_config.projection_size)
        self.head = TowerHead(shape).to(siglip.device)
        if fits:
            self.head.start_from(siglip.vision_model)
        self.text_model = siglip.text_model
        self.logit_scale, self.logit_bias = siglip.logit_scale, siglip.logit_bias

    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Embed pooled patches by the head."""
        return cast(Tensor, self.head(seen.float()))

    def trained(self) -> Sequence[str]:
        """List beginnings of names in the head and the text side."""
        return ("logit_", "head.", *(("text_model.",) if self.parts == "text" else ()))

    def save(self, folder: Path) -> None:
        """Write the folder that `encoder=tower` reads."""
        self.head.save(folder)
        self._save_text(folder, torch.float32)

    def save_slim(self, folder: Path) -> None:
        """Write the folder in float16; a text side that was not trained is only named."""
        self.head.save(folder, torch.float16)
        self._save_slim_text(folder)
