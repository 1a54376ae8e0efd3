"""Sizes of the tiny model and the three configurations made from them."""

from dataclasses import dataclass
from typing import Any

from transformers import Qwen2Config, SiglipConfig, SiglipTextConfig, SiglipVisionConfig


@dataclass(frozen=True)
class Geometry:
    """Sizes of the tiny LLaVA-Video: a 12x12 patch grid, pooled to 6x6 tokens per frame."""

    image_size: int = 96
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 5
    """Layers of the SigLIP; the language model's tower lacks the last one, as in LLaVA-Video."""
    vision_heads: int = 4
    vision_mlp: int = 384
    text_layers: int = 2
    text_positions: int = 32
    llm_width: int = 192
    llm_layers: int = 6
    llm_heads: int = 6
    llm_kv_heads: int = 2
    llm_mlp: int = 512
    max_positions: int = 32768
    rope_theta: float = 1e6

    @property
    def side(self) -> int:
        """Patches along an edge before pooling."""
        return self.image_size // self.patch_size

    @property
    def pooled_side(self) -> int:
        """Tokens along an edge after the 2x2 pooling."""
        return self.side // 2

    @property
    def head_dim(self) -> int:
        """Width of an attention head of the language model."""
        return self.llm_width // self.llm_heads

    def siglip(self, vocab_size: int, end_id: int) -> SiglipConfig:
        """Image-text model; text is padded with its end token, as the released SigLIP's is."""
        width = self.vision_width
        shared: dict[str, Any] = {
            "hidden_size": width,
            "intermediate_size": self.vision_mlp,
            "num_attention_heads": self.vision_heads,
        }
        vision = SiglipVisionConfig(
            num_hidden_layers=self.vision_layers, image_size=self.image_size, patch_size=self.patch_size, **shared
        )
        text = SiglipTextConfig(
            num_hidden_layers=self.text_layers,
            max_position_embeddings=self.text_positions,
            vocab_size=vocab_size,
            projection_size=width,
            pad_token_id=end_id,
            eos_token_id=end_id,
            bos_token_id=end_id,
            **shared,
        )
        return SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())

    def qwen2(self, vocab_size: int, eos_token_id: int, pad_token_id: int) -> Qwen2Config:
        """Language model: grouped queries, biased q, k and v, an untied head."""
        return Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=self.llm_width,
            intermediate_size=self.llm_mlp,
            num_hidden_layers=self.llm_layers,
            num_attention_heads=self.llm_heads,
            num_key_value_heads=self.llm_kv_heads,
            max_position_embeddings=self.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=False,
            use_sliding_window=False,
            eos_token_id=eos_token_id,
            bos_token_id=pad_token_id,
            pad_token_id=pad_token_id,
        )
