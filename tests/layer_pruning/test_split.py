"""Selections on a model that accelerate has spread over GPUs: torch's fake tensors know devices that are not here."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_execution_device_hook
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from lmms_kvtp.layer_pruning.base import StageInput
from lmms_kvtp.layer_pruning.parts.attention import last_query_attention, unrotated_attention

COUNT, WIDTH, HEAD = 10, 32, 8


def entering(device: str, layer: torch.nn.Module) -> StageInput:
    """What comes from a layer on `device`."""
    places = torch.arange(COUNT, device=device)
    return StageInput(
        layer=layer,
        hidden=torch.empty(COUNT, WIDTH, device=device),
        rotary=(torch.empty(COUNT, HEAD, device=device), torch.empty(COUNT, HEAD, device=device)),
        positions=places,
        role=torch.ones_like(places),
        frame=torch.zeros_like(places),
        segment=None,
        entered=COUNT,
    )


@pytest.mark.parametrize("before", ["cuda:0", "cuda:1"])
def test_the_first_layer_of_a_device_selects_among_what_comes_from_another(before: str) -> None:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    with FakeTensorMode():
        with torch.device("cuda:1"):
            layer = Qwen2DecoderLayer(Qwen2Config(num_hidden_layers=1, **sizes), 0)
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cuda:1"))
        attach_execution_device_hook(layer, "cuda:1")
        inputs = entering(before, layer)
        last = last_query_attention(inputs)
        asked = unrotated_attention(inputs, torch.arange(7, COUNT, device=before))
        assert last.shape == asked.shape == (COUNT,)
        assert {str(last.device), str(asked.device)} == {before}  # where the marks of what may go are
