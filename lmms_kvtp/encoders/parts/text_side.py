"""The text half of a SigLIP in files of its own, for a predictor that reads frames with another tower."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lmms_kvtp.cost.flops import relevance_flops
from lmms_kvtp.device import send
from lmms_kvtp.encoders.parts.predictor import TEXT_SIDE
from lmms_kvtp.encoders.parts.siglip_config import build_text_tower, siglip_source, text_shape
from lmms_kvtp.encoders.parts.text import REMEMBERED, RemembersTexts, padded_pieces, scaled_cosines
from lmms_kvtp.files import from_json, loading, write_json, write_whole

CONFIG, WEIGHTS = TEXT_SIDE
SCALE, BIAS = "logit_scale", "logit_bias"
UNTUNED = "untuned"
"""Key of text.json that stands in place of sizes: the SigLIP whose unchanged text tower reads questions."""


@dataclass(frozen=True)
class TextSide(RemembersTexts):
    """A text tower, its tokenizer, and the scale and bias of its logits."""

    tower: nn.Module
    tokenizer: Any
    scale: float
    """Logarithm of the factor on cosines."""
    bias: float
    """Shift of the logits."""

    @torch.no_grad()
    def embed_text(self, text: str) -> Float[Tensor, "_ E"]:
        """Embed one text, not normalised: a row for each piece that the tower can read."""
        pooled: Tensor = self.tower(input_ids=send(self.token_ids(text), self.device)).pooler_output
        return pooled.float()

    def token_ids(self, text: str) -> Int[Tensor, "p l"]:
        """Split a text into pieces that the tower reads."""
        return self._known_ids(text)

    @cached_property
    def _known_ids(self) -> Callable[[str], Int[Tensor, "p l"]]:
        limit = self.tower.get_parameter("embeddings.position_embedding.weight").shape[0]
        return lru_cache(REMEMBERED)(partial(padded_pieces, tokenizer=self.tokenizer, limit=limit))

    def logits(self, image: Float[Tensor, "T E"], text: Float[Tensor, "q F"]) -> Float[Tensor, "q T"]:
        """Compute cosines with the learned scale and bias; ValueError where text and frames differ in width."""
        if image.shape[1] != text.shape[1]:
            raise ValueError(
                f"a text side of width {text.shape[1]} cannot be compared with frames of width {image.shape[1]}; "
                "give the predictor that was trained for this encoder"
            )
        return scaled_cosines(image, text, math.exp(self.scale), self.bias)

    def relevance_flops(self, num_frames: int, texts: Sequence[str], views: int = 1) -> int:
        """Count text tower and cosines."""
        lengths = [len(row) for text in texts for row in self.token_ids(text)]
        return relevance_flops(text_shape(self.tower.config), lengths, num_frames, views)

    @property
    def device(self) -> torch.device:
        """Device of the tower."""
        return next(self.tower.parameters()).device


def save_text_side(
    folder: Path, tower: nn.Module, tokenizer: Any, scale: float, bias: float, dtype: torch.dtype = torch.float32
) -> None:
    """Write what `load_text_side` reads."""
    config: Any = tower.config
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in tower.state_dict().items()}
    _write(folder, config.to_diff_dict(), tensors, scale, bias)
    save_tokenizer(folder, tokenizer)


def save_untuned_text_side(folder: Path, pretrained: str, scale: float, bias: float) -> None:
    """Write a text side of which only scale and bias were trained; `load_text_side` reads it.

    `pretrained` is the folder or hub id of the SigLIP with the text tower, or tiny.
    """
    _write(folder, {UNTUNED: pretrained}, {}, scale, bias)


def _write(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], scale: float, bias: float) -> None:
    write_json(folder / CONFIG, settings)
    write_whole(folder / WEIGHTS, save({**tensors, SCALE: torch.tensor(scale), BIAS: torch.tensor(bias)}))


def save_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write a tokenizer in a form that transformers 4 reads, too; OSError where the disk is full."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(str(error)) from error  # tokenizers has no kind of its own for a full disk
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    for name in ("is_local", "local_files_only"):  # of the process that wrote it
        settings.pop(name, None)
    write_json(path, settings)


def load_text_side(folder: Path, device: torch.device | None = None) -> TextSide:
    """Read what `save_text_side` or `save_untuned_text_side` wrote, in float32.

    ValueError where a file is missing, damaged or of other shapes; the message names the folder and the reason.
    """
    from transformers import AutoTokenizer, SiglipModel, SiglipTextConfig

    with loading(f"no text side of a predictor in {folder}"):
        settings = from_json((folder / CONFIG).read_bytes())
        tensors = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
        scale, bias = (float(tensors.pop(name)) for name in (SCALE, BIAS))
        if UNTUNED in settings:
            source = siglip_source(settings[UNTUNED])
            tower: nn.Module = SiglipModel.from_pretrained(source, dtype=torch.float32).text_model
        else:
            source = str(folder)
            if settings.get("num_hidden_layers", 0) > len(tensors):  # before anything is made of them
                raise ValueError(f"{settings['num_hidden_layers']} layers of {len(tensors)} tensors")
            config = SiglipTextConfig(**settings)
            with torch.device("meta"):  # sizes that the weights do not have take no memory
                build_text_tower(config).load_state_dict(tensors, assign=True)
            tower = build_text_tower(config)
            tower.load_state_dict(tensors)
        tokenizer = AutoTokenizer.from_pretrained(source)
    return TextSide(tower.to(device or torch.device("cpu")).eval().requires_grad_(False), tokenizer, scale, bias)
