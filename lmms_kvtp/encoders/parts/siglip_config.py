"""Sizes and configs of SigLIP's towers, and where its weights lie."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from torch import nn

from lmms_kvtp.cost.flops import TextShape, VisionShape
from lmms_kvtp.shipped import TINY, shipped_folder

if TYPE_CHECKING:  # sizes alone are needed where nothing runs
    from transformers import SiglipConfig, SiglipTextConfig

FIELDS = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Fields of a vision tower's config, in the order of `VisionShape`."""
VOCABULARY = 32000
"""Entries of the released SigLIPs' tokenizer."""
SO400M = (VisionShape(384, 14, 1152, 4304, 27, 16), TextShape(1152, 4304, 27, 1152))
"""Sizes of siglip-so400m-patch14-384."""


def siglip_config(vision: VisionShape, text: TextShape, positions: int, vocabulary: int = VOCABULARY) -> "SiglipConfig":
    """Make the config of both towers from their sizes; heads of the text tower are as wide as the vision tower's.

    A padded text has `positions` tokens. The last of the `vocabulary` stands for beginning, end and padding.
    """
    from transformers import SiglipConfig, SiglipVisionConfig

    tower = SiglipVisionConfig(**dict(zip(FIELDS, astuple(vision), strict=True)))
    words = text_config(text, vision.hidden // vision.heads, positions, vocabulary)
    return SiglipConfig(text_config=words.to_dict(), vision_config=tower.to_dict())


def text_config(text: TextShape, head_width: int, positions: int, vocabulary: int) -> "SiglipTextConfig":
    """Make the config of the text tower alone; `siglip_config` explains the arguments."""
    from transformers import SiglipTextConfig

    last = vocabulary - 1
    return SiglipTextConfig(
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        hidden_size=text.hidden,
        intermediate_size=text.intermediate,
        num_hidden_layers=text.layers,
        num_attention_heads=max(1, text.hidden // head_width),
        projection_size=text.projection,
        bos_token_id=last,
        eos_token_id=last,
        pad_token_id=last,
    )


def vision_sizes(fields: Mapping[str, Any]) -> VisionShape:
    """Read the sizes of a vision tower from the fields of its config."""
    return VisionShape(*(fields[name] for name in FIELDS))


def text_shape(config: Any) -> TextShape:
    """Read the sizes of a text tower from its config."""
    return TextShape(config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.projection_size)


def siglip_source(pretrained: str) -> str:
    """Resolve `tiny` to the folder of the embedded model's SigLIP; other folders and hub ids stay as they are."""
    return str(shipped_folder(pretrained) / "siglip") if pretrained == TINY else pretrained


def build_text_tower(config: "SiglipTextConfig") -> nn.Module:
    """Build a text tower without trained weights, of the kind that `SiglipModel.text_model` is."""
    from transformers import SiglipTextModel

    model = SiglipTextModel(config)
    return dict(model.named_children()).get("text_model", model)  # transformers < 5 has one level more
