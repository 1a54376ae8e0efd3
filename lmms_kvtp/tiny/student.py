"""What is trained behind the frozen tower: the language model, the projector and the newline embedding."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from lmms_kvtp.tiny.geometry import Geometry
from lmms_kvtp.tiny.packing import PREFIX

EMBEDDING_STD = 0.5
MATCH_GAIN = 1.2


class Student(nn.Module):
    """A LLaVA-Video without its vision tower."""

    def __init__(self, geometry: Geometry, tokenizer: PreTrainedTokenizerBase) -> None:
        """Random weights, in which some attention heads already prefer positions like their own."""
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
        """The chat template's beginning before each video."""
        before = self.llm.model.embed_tokens(cast(Tensor, self.prefix))
        return torch.cat([before.expand(len(video), -1, -1), video], dim=1)

    def with_newlines(self, rows: Float[Tensor, "b T h w D"]) -> Float[Tensor, "b L D"]:
        """A newline behind each row of each frame, all in one sequence."""
        ends = self.newline.expand(*rows.shape[:3], 1, -1)
        return torch.cat([rows, ends], dim=3).flatten(1, 3)

    def project(self, features: Float[Tensor, "b T s s E"]) -> Float[Tensor, "b T h w D"]:
        """Projector on every patch, then the mean of each 2x2 block."""
        embeds = self.projector(features)
        return cast(Tensor, embeds.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5)))


def _initialise(llm: Qwen2ForCausalLM, geometry: Geometry) -> None:
    """Wider than the default, and W_k = 1.2 W_q for one query head of each group: a prior for matching contents.

    Without that prior the model answers with any event's color for hundreds of steps.
    """
    width, head_dim = geometry.llm_width, geometry.head_dim
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
