"""Counts of THOP and of torch's counter on models of real classes and sizes without weights (the meta device)."""

import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import SiglipModel

from lmms_kvtp.cost.meter import counting
from lmms_kvtp.cost.sample import SampleCost
from lmms_kvtp.encoders.parts.siglip_config import siglip_config
from lmms_kvtp.forecast.models import Encoder, Spec
from lmms_kvtp.vlms.checkpoint.network import Network, build

Profiler = Literal["thop", "torch"]


@dataclass(frozen=True)
class Profiled:
    """A model under a profiler; every part is profiled once."""

    spec: Spec
    profiler: Profiler
    """Profiler: thop counts multiply-adds; torch counts operations, with eager attention."""

    def stages(self, cost: SampleCost, encoder: Encoder | None = None) -> dict[str, float]:
        """Counts of the stages that are networks, at the layer lengths of a forecast, but for stages that it lacks.

        `encoder` is the image-text model, if the method has one.
        """
        found = {
            "vision": cost.num_frames * self._parts["tower"],
            "projector": cost.num_frames * self._parts["projector"],
        }
        if encoder is not None and "encoder" in cost.flops:
            per_frame, per_text = self._encoder(encoder)
            found["encoder"] = cost.num_frames * per_frame
            if cost.flops.get("scorer"):
                found["scorer"] = per_text
        head = self._parts["head"]
        found["prefill"] = sum(self._layer(n) for n in cost.layer_lengths) + head
        return found

    @cached_property
    def _network(self) -> Network:
        """The model with a single decoder layer, since all are alike."""
        config = replace(self.spec.config, llm={**self.spec.config.llm, "num_hidden_layers": 1})
        return build(config, self.spec.vocabulary, "eager")

    @cached_property
    def _parts(self) -> dict[str, float]:
        side, hidden = self.spec.vision.image_size, self.spec.vision.hidden
        return {
            "tower": self._count(self._network.tower, _meta(1, 3, side, side)),
            "projector": self._count(self._network.projector, _meta(1, self.spec.vision.patches, hidden)),
            "head": self._count(self._network.llm.lm_head, _meta(1, 1, self.spec.llm.hidden)),
        }

    @cached_property
    def _seen(self) -> dict[Any, Any]:
        return {}

    def _layer(self, positions: int) -> float:
        if positions not in self._seen:
            layer = _Layer(self._network.llm.model.layers[0], self.spec.llm.head_dim)
            self._seen[positions] = self._count(layer, _meta(1, positions, self.spec.llm.hidden))
        return float(self._seen[positions])

    def _encoder(self, encoder: Encoder) -> tuple[float, float]:
        """Counts per frame and per text."""
        if encoder not in self._seen:
            towers, size = _siglip(encoder), encoder.vision.image_size
            ids = torch.ones(1, encoder.positions, dtype=torch.long, device="meta")
            pixels = _meta(1, 3, size, size)
            self._seen[encoder] = self._count(towers.vision_model, pixels), self._count(towers.text_model, ids)
        frame, text = self._seen[encoder]
        return frame, text

    def _count(self, module: nn.Module, given: Tensor) -> float:
        return {"thop": _thop, "torch": _torch}[self.profiler](module, given)


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
