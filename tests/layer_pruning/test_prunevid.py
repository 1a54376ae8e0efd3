"""PruneVid's second stage against its released code (goldens), and its scores against a plain loop."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaForCausalLM

from lmms_kvtp.layer_pruning.base import Stage, layer_pruning
from lmms_kvtp.layer_pruning.parts.attention import unrotated_attention
from lmms_kvtp.layer_pruning.prunevid import PruneVidLayers
from lmms_kvtp.types import NEWLINE, TEXT, VISION, Prompt

GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="module")
def golden():
    archive = np.load(GOLDENS / "prunevid.npz", allow_pickle=False)
    return {name[4:]: torch.from_numpy(archive[name]) for name in archive.files if name.startswith("llm/")}


@pytest.fixture(scope="module")
def facts():
    return json.loads((GOLDENS / "prunevid.json").read_text())["llm"]


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def llama(request):
    folder = GOLDENS / "llama_tiny_prunevid"
    return LlamaForCausalLM.from_pretrained(folder, attn_implementation=request.param, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def prompt(golden, facts):
    """The golden's segments: a block of static tokens, then the dynamic ones of each frame."""
    groups, frames = [], []
    sizes = [golden[f"{kind}_sizes"].tolist() for kind in ("static", "dynamic", "window")]
    for static, dynamic, window in zip(*sizes, strict=True):
        group, frame = max(groups, default=-1) + 1, max(frames, default=-1) + 1
        groups += [group] * static + [group + 1 + i for i in range(window) for _ in range(dynamic // window)]
        frames += [frame] * static + [frame + i for i in range(window) for _ in range(dynamic // window)]

    def between(inside, fill):
        return torch.tensor([fill] * facts["n_pre"] + inside + [fill] * facts["n_post"])

    role = between([VISION] * facts["n_img"], TEXT)
    return Prompt(golden["inputs_embeds"][0], role, between(frames, -1), between(groups, -1))


@torch.inference_mode()
def prefill(model, prompt, pruner, cache=None):
    with layer_pruning(model.model.layers, pruner.stages(), prompt) as trace:
        return model(inputs_embeds=prompt.embeds[None], past_key_values=cache), trace


def test_prefill_is_that_of_the_release(llama, prompt, golden, facts):
    cache = DynamicCache()
    pruner = PruneVidLayers(layer=facts["selected_layer"], alpha=facts["alpha"])
    out, trace = prefill(llama, prompt, pruner, cache)
    assert trace.processed[3].tolist() == golden["keep_indices"].tolist()
    assert trace.layer_lengths == (270, 270, 107, 107)
    assert trace.cache_lengths == tuple(facts["kv_lengths"])
    torch.testing.assert_close(out.logits, golden["prefill_logits"], atol=5e-5, rtol=0)
    for index in range(4):
        torch.testing.assert_close(cache.layers[index].keys, golden[f"key_cache_{index}"], atol=5e-5, rtol=0)


def test_scores_are_those_of_the_release(llama, prompt, golden):
    seen = []

    def select(inputs):
        seen.append(unrotated_attention(inputs, torch.arange(261, 270))[inputs.vision])
        return inputs.vision

    with torch.inference_mode(), layer_pruning(llama.model.layers, [Stage(2, 1, select)], prompt):
        llama(inputs_embeds=prompt.embeds[None])
    torch.testing.assert_close(seen[0], golden["max_score"], atol=1e-6, rtol=1e-4)


def test_decoding_is_that_of_the_release(llama, prompt, golden, facts):
    positions = []
    hook = llama.model.layers[0].register_forward_pre_hook(
        lambda layer, args, kwargs: positions.append(kwargs["position_ids"][0, -1].item()), with_kwargs=True
    )
    with layer_pruning(llama.model.layers, PruneVidLayers(1, 0.4).stages(), prompt):
        out = llama.generate(
            inputs_embeds=prompt.embeds[None],
            attention_mask=torch.ones(1, prompt.length, dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            eos_token_id=None,
        )
    hook.remove()
    assert positions[1:] == facts["decode_positions"]
    assert out.sequences[0, :5].tolist() == golden["decode_tokens"].tolist()
    torch.testing.assert_close(torch.cat(out.logits[1:]), golden["decode_logits"], atol=5e-5, rtol=0)
    assert [layer.get_seq_length() for layer in out.past_key_values.layers] == facts["kv_lengths_after_decode"]


def test_the_best_of_each_frame_stay(model, make_prompt, reference):
    """Grouped queries, biases, frames of several sizes with newlines, more question rows than a head is wide."""
    prompt = make_prompt(frames=(5, 3, 6, 1), after=11)
    inputs = reference.run(model, prompt, [range(prompt.length)] * 3).inputs[2]
    probabilities, *_ = reference.attention(model, 2, *inputs, rotated=False, causal=False)
    question = [p for p in range(prompt.length) if prompt.role[p] == TEXT and p > 10]
    assert len(question) == 11
    scores = probabilities[:, question].amax(dim=(0, 1))
    kept = [p for p in range(prompt.length) if prompt.role[p] != VISION]
    for frame, count in enumerate([2, 1, 3, 0]):
        mine = [p for p in range(prompt.length) if prompt.role[p] == VISION and prompt.frame[p] == frame]
        kept += sorted(mine, key=lambda p: -scores[p])[:count]
    _, trace = prefill(model, prompt, PruneVidLayers(layer=2, alpha=0.5))
    assert trace.processed[3].tolist() == sorted(kept)
    assert trace.layer_lengths == (33, 33, 33, 24, 24)
    assert trace.cache_lengths == (24,) * 5


def test_newlines_and_text_stay(llm, make_prompt):
    prompt = make_prompt()
    _, trace = prefill(llm("sdpa"), prompt, PruneVidLayers(layer=1, alpha=0.3))
    roles = prompt.role[trace.processed[4]]
    assert (roles == NEWLINE).sum() == 3
    assert (roles == TEXT).sum() == 7


GROUPS = st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any)


@given(GROUPS, st.sampled_from([0.1, 0.29, 0.4, 0.5, 1.0]))
def test_groups_round_down_or_share_the_exact_total(sizes, alpha):
    sizes = torch.tensor(sizes)
    floor, exact = (PruneVidLayers(alpha=alpha, rounding=rule).quotas(sizes) for rule in ("floor", "exact"))
    assert floor.tolist() == [int(alpha * size) for size in sizes.tolist()]
    assert int(exact.sum()) == round(alpha * int(sizes.sum()))
    assert ((exact - floor) >= 0).all()
    assert ((exact - floor) <= 1).all()
    assert (exact <= sizes).all()


def test_text_behind_the_video_is_needed(llm, make_prompt):
    prompt = make_prompt(after=0)
    with pytest.raises(ValueError, match="by the text behind them, and this prompt has none"):
        prefill(llm("sdpa"), prompt, PruneVidLayers(layer=1))


def test_scores_without_order_are_refused(llm, make_prompt):
    prompt = make_prompt()
    broken = replace(prompt, embeds=prompt.embeds.index_fill(0, torch.tensor([4]), torch.nan))
    with pytest.raises(ValueError, match="attention scores hold NaN"):
        prefill(llm("sdpa"), broken, PruneVidLayers(layer=1))


@pytest.mark.parametrize("alpha", [0.0, -0.5, 1.01, float("nan")])
def test_a_ratio_that_is_none_is_refused(alpha):
    with pytest.raises(ValueError, match=r"outside \(0, 1\]"):
        PruneVidLayers(alpha=alpha)


def test_a_layer_outside_the_model_is_refused(llm, make_prompt):
    with pytest.raises(ValueError, match="below 0"):
        PruneVidLayers(layer=-1)
    with pytest.raises(ValueError, match="the model has layers 0 to 4"):
        prefill(llm("sdpa"), make_prompt(), PruneVidLayers())
