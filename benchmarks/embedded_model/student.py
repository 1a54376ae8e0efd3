"""The model that is trained behind the frozen tower: language model, projector and newline embedding."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, SiglipConfig

from benchmarks.embedded_model.footage import Features, Footage
from benchmarks.embedded_model.language import PREFIX
from benchmarks.embedded_model.loop import Log
from lmms_kvtp.cost.flops import TextShape, VisionShape
from lmms_kvtp.encoders.parts.siglip_config import siglip_config


@dataclass(frozen=True)
class Geometry:
    """Sizes of the tiny LLaVA-Video: a 12x12 patch grid, pooled to 6x6 tokens per frame."""

    image_size: int = 96
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 5
    """Number of the SigLIP's layers; the language model's tower lacks the last one, as in LLaVA-Video."""
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
        """Number of patches along an edge before pooling."""
        return self.image_size // self.patch_size

    def siglip(self, vocab_size: int) -> SiglipConfig:
        """Configure the image-text model; text is padded with its end token, the last of the vocabulary."""
        width, mlp = self.vision_width, self.vision_mlp
        vision = VisionShape(self.image_size, self.patch_size, width, mlp, self.vision_layers, self.vision_heads)
        text = TextShape(width, mlp, self.text_layers, width)
        return siglip_config(vision, text, self.text_positions, vocab_size)

    def qwen2(self, vocab_size: int, eos_token_id: int, pad_token_id: int) -> Qwen2Config:
        """Configure the language model: grouped queries, biased q, k and v, an untied head."""
        base: dict[str, Any] = {"rope_theta": self.rope_theta}  # transformers < 5 has no rope_parameters
        return Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=self.llm_width,
            intermediate_size=self.llm_mlp,
            num_hidden_layers=self.llm_layers,
            num_attention_heads=self.llm_heads,
            num_key_value_heads=self.llm_kv_heads,
            max_position_embeddings=self.max_positions,
            tie_word_embeddings=False,
            use_sliding_window=False,
            eos_token_id=eos_token_id,
            bos_token_id=pad_token_id,
            pad_token_id=pad_token_id,
            **base,
        )


EMBEDDING_STD = 0.5
MATCH_GAIN = 1.2


class Student(nn.Module):
    """A LLaVA-Video without its vision tower."""

    def __init__(self, geometry: Geometry, tokenizer: PreTrainedTokenizerBase) -> None:
        """Draw random weights, in which some attention heads already prefer positions like their own."""
        super().__init__()
        width, vision = geometry.llm_width, geometry.vision_width
        eos, pad = cast(int, tokenizer.eos_token_id), cast(int, tokenizer.pad_token_id)
        self.llm = Qwen2ForCausalLM(geometry.qwen2(len(tokenizer), eos, pad))
        self.projector = nn.Sequential(nn.Linear(vision, width), nn.GELU(), nn.Linear(width, width))
        self.newline = nn.Parameter(torch.randn(width) * EMBEDDING_STD)
        prefix = tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
        self.register_buffer("prefix", torch.tensor(prefix), persistent=False)
        _initialise(self.llm, geometry)

    def with_prefix(self, video: Float[Tensor, "b C D"]) -> Float[Tensor, "b L D"]:
        """Put the chat template's beginning before each video."""
        before = self.llm.model.embed_tokens(cast(Tensor, self.prefix))
        return torch.cat([before.expand(len(video), -1, -1), video], dim=1)

    def with_newlines(self, rows: Float[Tensor, "b T h w D"]) -> Float[Tensor, "b L D"]:
        """Put a newline behind each row of each frame, all in one sequence."""
        ends = self.newline.expand(*rows.shape[:3], 1, -1)
        return torch.cat([rows, ends], dim=3).flatten(1, 3)

    def project(self, features: Float[Tensor, "b T s s E"]) -> Float[Tensor, "b T h w D"]:
        """Run the projector on every patch, and average each 2x2 block."""
        embeds = self.projector(features)
        return cast(Tensor, embeds.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5)))


@dataclass(frozen=True)
class Classroom:
    """What the stages behind the tower share."""

    student: Student
    tokenizer: PreTrainedTokenizerBase
    footage: Footage
    bank: Features
    seed: int
    device: torch.device
    log: Log


def _initialise(llm: Qwen2ForCausalLM, geometry: Geometry) -> None:
    """Draw wider weights than the default, and set W_k = 1.2 W_q for one query head of each group.

    The latter is a prior for matching contents; without it the model answers with any event's color for hundreds of
    steps.
    """
    width, head_dim = geometry.llm_width, geometry.llm_width // geometry.llm_heads
    group = geometry.llm_heads // geometry.llm_kv_heads
    depth_scale = (2 * geometry.llm_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if parameter.ndim == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0, parameter.shape[1] ** -0.5 * (depth_scale if out else 1.0))
        llm.model.embed_tokens.weight.normal_(0, EMBEDDING_STD)
        llm.lm_head.weight.normal_(0, 0.3 * width**-0.5)
        for layer in llm.model.layers:
            query, key = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
            first = query.view(geometry.llm_kv_heads, group, head_dim, width)[:, 0]
            key.copy_(MATCH_GAIN * first.reshape_as(key))
