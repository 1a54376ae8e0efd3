"""The modules of transformers that the config of a LLaVA checkpoint means."""

from typing import cast

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from lmms_kvtp.vlms.checkpoint.config import LlavaConfig

EMBEDDINGS, HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
"""The two tensors of a network with a row per token."""


class VisionTower(nn.Module):
    """A SigLIP tower up to the output of its last layer, without normalisation and pooling head."""

    def __init__(self, siglip: nn.Module) -> None:
        """Share the modules of a SiglipVisionModel."""
        super().__init__()
        core = dict(siglip.named_children()).get("vision_model", siglip)  # transformers < 5 has one level more
        self.embeddings, self.encoder = core.get_submodule("embeddings"), core.get_submodule("encoder")

    def forward(self, pixels: Float[Tensor, "T 3 h w"]) -> Float[Tensor, "T P d"]:
        """Compute the features of the patches, row by row."""
        return cast(Tensor, self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state)


class Network(nn.Module):
    """All weights of one model."""

    def __init__(self, tower: nn.Module, projector: nn.Sequential, newline: Tensor, llm: Qwen2ForCausalLM) -> None:
        """Join the parts without copies; the tower gives features of patches, row by row."""
        super().__init__()
        self.tower, self.projector, self.newline, self.llm = tower, projector, nn.Parameter(newline), llm


def build(config: LlavaConfig, vocabulary: int, attention: str) -> Network:
    """Build a network without weights: its parameters are on the meta device.

    Embeddings and head have `vocabulary` rows, at most those of the checkpoint; `attention` is a name of transformers.
    """
    vision = SiglipVisionConfig(
        **config.vision
        | {"num_hidden_layers": config.vision_layers, "vision_use_head": False, "attn_implementation": attention}
    )
    text = Qwen2Config(**config.llm | {"vocab_size": vocabulary, "attn_implementation": attention})
    inner, outer = vision.hidden_size, text.hidden_size
    with init_empty_weights(include_buffers=False):
        tower = VisionTower(SiglipVisionModel(vision))
        projector = nn.Sequential(nn.Linear(inner, outer), nn.GELU(), nn.Linear(outer, outer))
        network = Network(tower, projector, torch.empty(outer, device="meta"), Qwen2ForCausalLM(text))
    return network.requires_grad_(False).eval()
