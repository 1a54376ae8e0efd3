"""PyramidDrop against a plain loop written from the paper."""

import pytest
import torch
from helpers.official import official
from transformers import LlamaConfig, LlamaForCausalLM

from lmms_kvtp.layer_pruning.base import layer_pruning
from lmms_kvtp.layer_pruning.pyramiddrop import PyramidDrop
from lmms_kvtp.types import TEXT, VISION, Prompt


@pytest.mark.parametrize("positions", ["renumbered", "kept"])
def test_each_stage_keeps_the_best_of_the_last_row(model, make_prompt, reference, positions):
    prompt, anew = make_prompt(frames=(5, 3, 6)), positions == "renumbered"
    pruner = PyramidDrop(layers=(1, 3, 4), ratios=(0.75, 0.5, 0.125), positions=positions)
    counts = {1: 10, 3: 7, 4: 1}  # of 14, rounded down
    kept, processed = list(range(prompt.length)), []
    for layer in range(5):
        if layer in counts:
            hidden, at = reference.run(model, prompt, [*processed, kept], renumber=anew).inputs[layer]
            probabilities, *_ = reference.attention(model, layer, hidden, torch.arange(len(at)) if anew else at)
            scores = dict(zip(at.tolist(), probabilities.mean(0)[-1].tolist(), strict=True))
            vision = sorted((p for p in kept if prompt.role[p] == VISION), key=lambda p: -scores[p])
            kept = sorted(set(kept) - set(vision[counts[layer] :]))
        processed.append(kept)
    with torch.inference_mode(), layer_pruning(model.model.layers, pruner.stages(), prompt) as trace:
        logits = model(inputs_embeds=prompt.embeds[None]).logits[0]
        mask = torch.ones(1, prompt.length, dtype=torch.long)
        options = {"output_logits": True, "return_dict_in_generate": True, "do_sample": False, "max_new_tokens": 9}
        out = model.generate(inputs_embeds=prompt.embeds[None], attention_mask=mask, **options)
    assert [p.tolist() for p in trace.processed] == processed
    expected = reference.run(model, prompt, processed, out.sequences[0, :-1].tolist(), renumber=anew)
    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(out.logits[1:]), expected.steps, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (1, 2)}, "2 layers and 3 ratios"),
        ({"layers": (), "ratios": ()}, "0 layers and 0 ratios"),
        ({"layers": (2, 1, 3)}, "not ascending"),
        ({"layers": (-1, 1, 3)}, "not ascending"),
        ({"layers": (1, 1, 3)}, "not ascending"),
        ({"ratios": (0.5, 0.25, 0.0)}, r"outside \(0, 1\]"),
        ({"ratios": (1.2, 0.5, 0.2)}, r"outside \(0, 1\]"),
        ({"ratios": (0.5, 0.6, 0.2)}, "does not come back"),
    ],
)
def test_settings_that_make_no_pyramid_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PyramidDrop(**settings)


def test_the_defaults_halve_three_times_in_28_layers():
    assert [stage.layer for stage in PyramidDrop().stages()] == [28 * i // 4 for i in (1, 2, 3)]
    assert PyramidDrop().ratios == (1 / 2, 1 / 4, 1 / 8)


@pytest.fixture(scope="module")
def llama():
    golden, sizes = official("pyramiddrop"), official("pyramiddrop").about["model"]
    config = LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inter"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["heads"],
        rms_norm_eps=sizes["rms_norm_eps"],
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    names = [name for name in golden.arrays if name.startswith("model/")]
    weights = {name.replace("model/lm_head", "lm_head").replace("model/", "model."): golden(name) for name in names}
    missing = model.load_state_dict(weights, strict=False)
    assert missing.missing_keys == ["model.embed_tokens.weight"] and not missing.unexpected_keys
    return model


@pytest.mark.parametrize(("positions", "where"), [("renumbered", ""), ("kept", "not_release/whole_prompt_positions/")])
@pytest.mark.parametrize("case", official("pyramiddrop").cases)
def test_stages_and_logits_are_those_of_the_release(llama, case, positions, where):
    golden, facts = official("pyramiddrop"), official("pyramiddrop").cases[case]
    embeds, first = golden(f"{case}/in/embeds"), facts["before"]
    role = torch.full((len(embeds),), TEXT)
    role[first : first + facts["count"]] = VISION
    prompt = Prompt(embeds, role, torch.where(role == VISION, 0, -1))
    pruner = PyramidDrop(tuple(facts["layers"]), tuple(facts["ratios"]), positions)
    with torch.inference_mode(), layer_pruning(llama.model.layers, pruner.stages(), prompt) as trace:
        out = llama(inputs_embeds=embeds[None], output_hidden_states=True)
    for number, layer in enumerate(facts["layers"]):
        kept = trace.processed[layer]
        assert torch.equal(kept[role[kept] == VISION], golden(f"{case}/out/{where}stage_{number}/kept"))
    assert torch.equal(trace.processed[-1], golden(f"{case}/out/{where}places"))
    hidden = golden(f"{case}/out/{where}last_hidden_state")
    torch.testing.assert_close(out.hidden_states[-1][0], hidden, rtol=0, atol=1e-4)
    torch.testing.assert_close(out.logits[0, -1], golden(f"{case}/out/{where}logits"), rtol=0, atol=1e-4)


def test_a_share_is_rounded_down_as_floats_are():
    assert PyramidDrop((1,), (0.57,)).kept(100) == ((1, 56),)  # 0.57 * 100 is 56.99999999999999
