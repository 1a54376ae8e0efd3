"""Counts of THOP and of torch's counter on models of real classes and sizes without weights (the meta device)."""

import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import SiglipModel

from lmms_kvtp.cost.meter import counting
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encoders.parts.siglip_config import siglip_config
from lmms_kvtp.forecast.models import Encoder, Spec
from lmms_kvtp.vlms.checkpoint.network import build

Profiler = Literal["thop", "torch"]


def profile(spec: Spec, profiler: Profiler, cost: SampleCost, encoder: Encoder | None = None) -> dict[str, float]:
    """Counts of the stages that are networks, at the layer lengths of a forecast, but for stages that it lacks.

    thop counts multiply-adds, torch operations with eager attention. `encoder` is the method's image-text model.
    """
    count = {"thop": _thop, "torch": _torch}[profiler]
    config = replace(spec.config, llm={**spec.config.llm, "num_hidden_layers": 1})  # all layers are alike
    network, v, hidden = build(config, spec.vocabulary, "eager"), spec.vision, spec.llm.hidden
    layer = _Layer(network.llm.model.layers[0], spec.llm.head_dim)
    layers = {n: count(layer, _meta(1, n, hidden)) for n in {*cost.layer_lengths}}
    found = {
        "vision": cost.num_frames * count(network.tower, _meta(1, 3, v.image_size, v.image_size)),
        "projector": cost.num_frames * count(network.projector, _meta(1, v.patches, v.hidden)),
    }
    if encoder is not None and "encoder" in cost.flops:
        towers, size = _siglip(encoder), encoder.vision.image_size
        found["encoder"] = cost.num_frames * count(towers.vision_model, _meta(1, 3, size, size))
        if cost.flops.get("scorer"):
            ids = torch.ones(1, encoder.positions, dtype=torch.long, device="meta")
            found["scorer"] = count(towers.text_model, ids)
    head = count(network.llm.lm_head, _meta(1, 1, hidden))
    return {**found, "prefill": sum(layers[n] for n in cost.layer_lengths) + head}


class _Layer(nn.Module):
    """A decoder layer as a function of hidden states, because profilers pass a single argument."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.width = layer, width

    def forward(self, hidden: Tensor) -> Any:
        n = hidden.shape[1]
        turned = _meta(1, n, self.width)  # given, as the mask: transformers makes neither without values
        return self.layer(hidden, attention_mask=_meta(1, 1, n, n), position_embeddings=(turned, turned))


def _meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def _siglip(encoder: Encoder) -> Any:
    config = siglip_config(encoder.vision, encoder.text, encoder.positions)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = SiglipModel(config)
    model.vision_model.head.attention.train()  # no profiler sees into the fused inference path
    return model


def _torch(module: nn.Module, given: Tensor) -> float:
    with counting() as found, torch.no_grad():
        module(given)
    return float(found.flops)


def _thop(module: nn.Module, given: Tensor) -> float:
    with warnings.catch_warnings():  # it compares versions by a deprecated module
        warnings.simplefilter("ignore", DeprecationWarning)
        import thop

    run: Callable[..., tuple[float, float]] = thop.profile
    with redirect_stdout(StringIO()):  # THOP prints its rules
        operations, _ = run(module, inputs=(given,), verbose=False)
    return float(operations)
