"""The trainable half of a predictor: from what the feature cache kept, and from text, to one space."""

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
from lmms_kvtp.predictor.features import Embeddings, Patches, Pixels, Viewer
from lmms_kvtp.vlms.llava_video import LlavaVideo

Parts = Literal["head", "text", "all"]
"""What is trained: what comes after the towers, with logit scale and bias; the text tower, too; or both towers."""


class Towers(nn.Module, ABC):
    """Two sides that meet in one space."""

    name: str
    """Checkpoint that training started from."""
    encoder: Siglip
    """Whose text side is the one."""
    parts: Parts
    """What is trained."""
    viewer: Viewer
    """What `see` reads."""
    text_model: nn.Module
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter

    @abstractmethod
    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Embeddings of frames, not normalised."""

    @abstractmethod
    def trained(self) -> Sequence[str]:
        """Beginnings of the names of the parameters that `parts` stands for."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that an encoder takes as `encoder.pretrained`."""

    @abstractmethod
    def save_slim(self, folder: Path) -> None:
        """Write only what training can have changed, in float16."""

    @final
    def token_ids(self, text: str) -> Int[Tensor, "p l"]:
        """Pieces of a text, as they will be read at inference."""
        return torch.cat(self.encoder.token_ids(text))

    @final
    def read(self, ids: Int[Tensor, "p l"]) -> Float[Tensor, "p E"]:
        """Embeddings of texts, not normalised."""
        return cast(Tensor, self.text_model(input_ids=ids).pooler_output.float())

    @final
    def _save_text(self, folder: Path, dtype: torch.dtype) -> None:
        scale, bias = self.logit_scale.item(), self.logit_bias.item()
        save_text_side(folder, self.text_model, self.encoder.tokenizer, scale, bias, dtype)

    @final
    def _save_slim_text(self, folder: Path) -> None:
        """The text side in float16; of one that was not trained, its name."""
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
        self.viewer = Pixels(encoder) if parts == "all" else Embeddings(encoder)
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
        """Added to logits."""
        return cast(nn.Parameter, self.siglip.logit_bias)

    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Embeddings as they are in the cache, or of the vision tower as it is now."""
        if self.parts != "all":
            return seen.float()
        return cast(
            Tensor, self.siglip.vision_model(pixel_values=seen.to(self.logit_scale.dtype)).pooler_output.float()
        )

    def trained(self) -> Sequence[str]:
        """Of the SigLIP; the fusion head is not part of it."""
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
        """Write the text side, for `scorer.checkpoint`.

        Raises:
            ValueError: the vision tower was trained, too.
        """
        if self.parts == "all":
            raise ValueError("a predictor whose vision tower was trained has no slim form; use its folder")
        self._save_slim_text(folder)


class SharedTowers(Towers):
    """A light head on the tower of a vision-language model, which is frozen, and the text tower of a SigLIP."""

    def __init__(self, vlm: LlavaVideo, encoder: Siglip, parts: Parts = "text") -> None:
        """Start from the SigLIP's text tower, and from its pooling head where that is of the tower's width.

        Raises:
            ValueError: the model's own tower is to be trained.
        """
        super().__init__()
        if parts == "all":
            raise ValueError("parts=all with a shared tower: that tower is the model's own and stays; use text")
        self.name = f"tower of {vlm.name}, text side of {encoder.pretrained}"
        self.encoder, self.parts = encoder, parts
        self.viewer = Patches(vlm)
        siglip: Any = encoder.model
        config = siglip.config
        fits = config.vision_config.hidden_size == vlm.vision.hidden
        self.head = TowerHead(
            HeadShape(
                width=vlm.vision.hidden,
                intermediate=config.vision_config.intermediate_size if fits else vlm.vision.intermediate,
                heads=config.vision_config.num_attention_heads if fits else vlm.vision.heads,
                embed=config.text_config.projection_size,
            )
        ).to(siglip.device)
        if fits:
            self.head.start_from(siglip.vision_model)
        self.text_model = siglip.text_model
        self.logit_scale, self.logit_bias = siglip.logit_scale, siglip.logit_bias

    def see(self, seen: Float[Tensor, "T *seen"]) -> Float[Tensor, "T E"]:
        """Embeddings that the head makes of pooled patches."""
        return cast(Tensor, self.head(seen.float()))

    def trained(self) -> Sequence[str]:
        """Of the head and the text side."""
        return ("logit_", "head.", *(("text_model.",) if self.parts == "text" else ()))

    def save(self, folder: Path) -> None:
        """Write what `encoder=tower` reads."""
        self.head.save(folder)
        self._save_text(folder, torch.float32)

    def save_slim(self, folder: Path) -> None:
        """The same in float16; a text side that was not trained is named only."""
        self.head.save(folder, torch.float16)
        self._save_slim_text(folder)
