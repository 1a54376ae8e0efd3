"""Transformers' own class of the family around the weights of a loaded model."""

from math import isqrt
from typing import cast

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, SiglipVisionConfig

from lmms_kvtp.vlms.checkpoint.network import Tower
from lmms_kvtp.vlms.checkpoint.tensor_names import HUGGING_FACE, choose
from lmms_kvtp.vlms.llava_video import LlavaVideo


def transformers_model(vlm: LlavaVideo) -> LlavaOnevisionForConditionalGeneration:
    """Transformers' own class of the family around the weights of `vlm`, which it shares."""
    network = vlm.network
    vision, text = cast(SiglipVisionConfig, cast(Tower, network.tower).encoder.config), network.llm.config
    rows = text.vocab_size
    config = LlavaOnevisionConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=rows,
        video_token_index=rows + 1,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    config._attn_implementation = text._attn_implementation
    with init_empty_weights(include_buffers=False):
        model = LlavaOnevisionForConditionalGeneration(config)
    own, names = network.state_dict(), model.state_dict()
    layout = choose(HUGGING_FACE, list(own), names)
    shared = {layout.name(name): tensor for name, tensor in own.items()}
    size, dtype = vlm.vision.hidden, vlm.dtype
    norm = {name: torch.ones(size, dtype=dtype) for name in layout.unused if name in names}  # what it returns is unused
    model.load_state_dict({name: shared.get(name, norm.get(name)) for name in names}, assign=True)
    nn.Module.to(model, vlm.device)  # in no number type: rotary frequencies stay in float32
    nn.Module.eval(model)
    return model


def pool_by(model: LlavaOnevisionForConditionalGeneration, mode: str) -> None:
    """Let this one model pool frames by `mode`; transformers' class has the bilinear way alone.

    Source: LLaVA-NeXT's `get_2dPool`: average and max have windows and strides of 2, and drop an odd row and column.

    Args:
        model: nothing else of it changes.
        mode: bilinear, average or max.
    """
    if mode == "bilinear":
        return

    def pool(features: Float[Tensor, "T P D"]) -> Float[Tensor, "T N D"]:
        side = isqrt(features.shape[1])
        grid = features.transpose(1, 2).reshape(len(features), -1, side, side)
        half = F.max_pool2d(grid, 2, 2) if mode == "max" else F.avg_pool2d(grid, 2, 2)
        return half.flatten(2).transpose(1, 2)

    model.model.apply_pooling = pool
