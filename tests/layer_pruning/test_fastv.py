"""FastV against its released code (goldens), and its scores against a plain loop."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from lmms_kvtp.layer_pruning.base import layer_pruning
from lmms_kvtp.layer_pruning.fastv import FastV
from lmms_kvtp.types import TEXT, VISION, Prompt

GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="module")
def golden():
    archive = np.load(GOLDENS / "fastv.npz", allow_pickle=False)
    return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def facts():
    return json.loads((GOLDENS / "fastv.json").read_text())


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def llama(request):
    folder = GOLDENS / "llama_tiny_fastv"
    return LlamaForCausalLM.from_pretrained(folder, attn_implementation=request.param, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompt(golden, facts):
    role = torch.tensor([TEXT] * facts["sys"] + [VISION] * facts["img"] + [TEXT] * facts["post"])
    return Prompt(golden["inputs_embeds"][0], role, torch.where(role == VISION, 0, -1))


@torch.inference_mode()
def prefill(model, prompt, pruner):
    with layer_pruning(model.model.layers, pruner.stages(), prompt) as trace:
        out = model(inputs_embeds=prompt.embeds[None], output_hidden_states=True)
    return out, trace


@pytest.mark.parametrize("percent", [25, 50, 72])
def test_prefill_is_that_of_the_release(llama, prompt, golden, percent):
    out, trace = prefill(llama, prompt, FastV(layer=2, ratio=percent / 100))
    assert trace.processed[2].tolist() == golden[f"inplace_r{percent}/keep"].tolist()
    torch.testing.assert_close(out.logits, golden[f"inplace_r{percent}/logits"], atol=5e-5, rtol=0)
    torch.testing.assert_close(out.logits[:, -1], golden[f"mask_r{percent}/logits_last"], atol=5e-5, rtol=0)
    torch.testing.assert_close(out.hidden_states[3], golden[f"inplace_r{percent}/hidden_3"], atol=5e-5, rtol=0)


def test_a_later_layer_is_that_of_the_release(llama, prompt, golden):
    out, trace = prefill(llama, prompt, FastV(layer=3, ratio=0.5))
    assert trace.layer_lengths == (127, 127, 127, 77)
    torch.testing.assert_close(out.logits[:, -1], golden["inplace_K3_r50/logits_last"], atol=5e-5, rtol=0)


def test_decoding_is_that_of_the_release_with_a_cache(llama, prompt, golden, facts):
    with layer_pruning(llama.model.layers, FastV(layer=2, ratio=0.5).stages(), prompt) as trace:
        out = llama.generate(
            inputs_embeds=prompt.embeds[None],
            attention_mask=torch.ones(1, prompt.length, dtype=torch.long),
            max_new_tokens=7,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            eos_token_id=None,
        )
    assert trace.cache_lengths == tuple(facts["kv_lengths_after_prefill"])
    assert out.sequences[0, :6].tolist() == golden["kvcache_r50/tokens"].tolist()
    torch.testing.assert_close(torch.cat(out.logits[1:]), golden["kvcache_r50/decode_logits"], atol=5e-5, rtol=0)
    lengths = [layer.get_seq_length() for layer in out.past_key_values.layers]
    assert lengths == facts["kvcache_r50"]["kv_lengths_after_decode"]


def test_the_best_of_the_last_row_stay(model, make_prompt, reference):
    """Grouped queries, biases, several frames and newlines, which the golden model has not."""
    prompt = make_prompt(frames=(5, 3, 6))
    inputs = reference.run(model, prompt, [range(prompt.length)] * 4).inputs
    for layer, ratio in [(1, 0.55), (3, 0.29), (4, 0.8)]:
        probabilities, *_ = reference.attention(model, layer - 1, *inputs[layer - 1])
        scores = probabilities.mean(0)[-1]
        vision = [position for position in range(prompt.length) if prompt.role[position] == VISION]
        best = sorted(vision, key=lambda position: -scores[position])[: round(ratio * 14)]
        _, trace = prefill(model, prompt, FastV(layer, ratio))
        expected = [p for p in range(prompt.length) if p in best or prompt.role[p] != VISION]
        assert trace.processed[layer].tolist() == expected


def test_at_least_one_token_stays(llm, make_prompt):
    prompt = make_prompt()
    _, trace = prefill(llm("sdpa"), prompt, FastV(layer=2, ratio=0.01))
    assert trace.layer_lengths == (19, 19, 11, 11, 11)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan")])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match=r"outside \(0, 1\]; it is the fraction of vision tokens kept"):
        FastV(ratio=ratio)


def test_the_first_layer_is_refused():
    with pytest.raises(ValueError, match="layer=0 has no layer before it"):
        FastV(layer=0)
