"""What every layer pruner must do, by name, at its default settings on a model of 28 layers."""

import dataclasses

import pytest
import torch
from helpers import decoders
from transformers import DynamicCache

from lmms_kvtp.layer_pruning.base import LayerPruner, check_stages, layer_pruning
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.types import VISION

PACKAGE, LAYERS = "lmms_kvtp.layer_pruning", 28
KEEP_ALL = {
    "none": {},
    "fastv": {"ratio": 1.0},
    "holitom": {"ratio": 1.0},
    "prunevid": {"alpha": 1.0},
    "pyramiddrop": {"ratios": (1.0, 1.0, 1.0)},
}


@pytest.fixture(scope="module")
def model():
    return decoders.build(layers=LAYERS)


@pytest.fixture(scope="module", params=available(PACKAGE))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def pruner(name):
    return resolve(PACKAGE, name, LayerPruner)()


@torch.inference_mode()
def read(model, prompt, pruner):
    """Prefill: logits of the last position, what each layer met, and the cache."""
    cache = DynamicCache()
    with layer_pruning(model.model.layers, pruner.stages(), prompt) as trace:
        out = model(inputs_embeds=prompt.embeds[None].to(model.dtype), past_key_values=cache, logits_to_keep=1)
    return out.logits[0, 0], trace, cache


def test_it_is_a_frozen_dataclass_whose_stages_fit_a_7b_model(pruner):
    assert dataclasses.is_dataclass(pruner)
    assert type(pruner).__dataclass_params__.frozen
    check_stages(pruner.stages(), LAYERS)


@pytest.mark.parametrize("frames", [(7,), (5, 3, 6), (1, 0, 2, 9, 4)], ids=str)
def test_only_vision_tokens_go_and_none_comes_back(model, pruner, frames):
    prompt = decoders.prompt_of(frames=frames)
    logits, trace, cache = read(model, prompt, pruner)
    others = torch.nonzero(prompt.role != VISION).flatten().tolist()
    before = set(range(prompt.length))
    for processed, cached, held in zip(trace.processed, trace.cached, cache.layers, strict=True):
        assert processed.tolist() == sorted(set(processed.tolist()))
        assert before >= set(processed.tolist()) >= set(cached.tolist()) >= set(others)
        assert held.get_seq_length() == len(cached)
        before = set(processed.tolist())
    assert (len(before) < prompt.length) == bool(pruner.stages())
    assert torch.isfinite(logits).all()


def test_two_runs_agree_whatever_came_between(model, pruner):
    prompt, other = decoders.prompt_of(frames=(5, 3, 6)), decoders.prompt_of(frames=(2, 8), seed=5)
    logits, trace, _ = read(model, prompt, pruner)
    read(model, other, pruner)
    again, trace_again, _ = read(model, prompt, pruner)
    assert torch.equal(again, logits)
    assert all(torch.equal(*pair) for pair in zip(trace.processed, trace_again.processed, strict=True))


def test_model_and_prompt_stay_as_they_were(model, pruner):
    prompt = decoders.prompt_of(frames=(5, 3, 6))
    values = [prompt.embeds, prompt.role, prompt.frame, *model.state_dict().values()]
    copies = [value.clone() for value in values]
    read(model, prompt, pruner)
    assert all(torch.equal(*pair) for pair in zip(values, copies, strict=True))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_prompt_without_vision_tokens_is_untouched(model, pruner, name):
    prompt = decoders.prompt_of(frames=())
    logits, trace, _ = read(model, prompt, pruner)
    expected, *_ = read(model, prompt, resolve(PACKAGE, "none", LayerPruner)())
    assert torch.equal(logits, expected)
    assert trace.layer_lengths == (prompt.length,) * LAYERS


def test_keeping_all_gives_the_unpruned_logits_bit_for_bit(model, name):
    if name not in KEEP_ALL:
        pytest.skip("of a package whose settings that keep everything are not known here")
    prompt = decoders.prompt_of(frames=(5, 3, 6))
    pruner = resolve(PACKAGE, name, LayerPruner)(**KEEP_ALL[name])
    logits, trace, _ = read(model, prompt, pruner)
    expected, *_ = read(model, prompt, resolve(PACKAGE, "none", LayerPruner)())
    assert torch.equal(logits, expected)
    assert trace.layer_lengths == (prompt.length,) * LAYERS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_keeps_as_many(pruner, dtype):
    prompt = decoders.prompt_of(frames=(5, 3, 6))
    model = decoders.build(layers=LAYERS)
    _, exact, _ = read(model, prompt, pruner)
    for weight in model.parameters():
        weight.data *= 0.25  # fp16 overflows otherwise
    logits, trace, _ = read(model.to(dtype), prompt, pruner)
    assert trace.layer_lengths == exact.layer_lengths
    assert torch.isfinite(logits).all()


def test_embeddings_without_value_are_refused(model, pruner):
    prompt = decoders.prompt_of(frames=(5, 3, 6))
    prompt.embeds[4] = torch.nan
    if pruner.stages():
        with pytest.raises(ValueError, match="NaN; look at the vision tokens"):
            read(model, prompt, pruner)


@pytest.mark.gpu
def test_a_gpu_keeps_what_the_cpu_keeps(pruner):
    prompt, moved = decoders.prompt_of(frames=(5, 3, 6)), decoders.build(layers=LAYERS).cuda()
    logits, trace, _ = read(decoders.build(layers=LAYERS), prompt, pruner)
    found, met, _ = read(moved, dataclasses.replace(prompt, embeds=prompt.embeds.cuda()), pruner)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), logits, rtol=1e-3, atol=1e-3)
    assert [kept.tolist() for kept in met.processed] == [kept.tolist() for kept in trace.processed]
