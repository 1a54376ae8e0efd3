"""HoliTom's stage inside the model against a loop written from the algorithm's text."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lmms_kvtp.cost.flops import LLMShape, prefill_flops
from lmms_kvtp.layer_pruning import holitom
from lmms_kvtp.layer_pruning.base import layer_pruning
from lmms_kvtp.layer_pruning.holitom import HoliTomLayers, average_into_most_similar
from lmms_kvtp.types import VISION


def one_after_another(hidden: torch.Tensor, kept: list[int], dropped: list[int]) -> torch.Tensor:
    """Token by token: its host is found among the states as they were, and becomes the mean of both."""
    merged = hidden.clone()
    for place in dropped:
        host = max(kept, key=lambda other: float(F.cosine_similarity(hidden[place], hidden[other], dim=0)))
        merged[host] = (merged[host] + hidden[place]) / 2
    return merged


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 3])
def test_the_stage_is_the_loop_over_tokens(model, make_prompt, reference, layer):
    prompt = make_prompt(frames=(5, 3, 6))
    pruner, whole = HoliTomLayers(layer=layer, ratio=0.3), list(range(prompt.length))
    hidden, at = reference.run(model, prompt, [whole] * layer).inputs[layer - 1]
    probabilities, *_ = reference.attention(model, layer - 1, hidden, at)
    scores = probabilities.mean(0)[-1]
    vision = [place for place in whole if prompt.role[place] == VISION]
    kept = sorted(sorted(vision, key=lambda place: -float(scores[place]))[:4])  # 0.3 of 14, rounded
    dropped = [place for place in vision if place not in kept]
    hidden, _ = reference.run_layer(model, layer - 1, hidden, at)
    hidden = one_after_another(hidden, kept, dropped)
    at = torch.tensor([place for place in whole if place not in dropped])
    hidden = hidden[at]
    for index in range(layer, 5):
        hidden, _ = reference.run_layer(model, index, hidden, at)
    expected = model.lm_head(reference.rms(hidden, model.model.norm))
    with torch.inference_mode(), layer_pruning(model.model.layers, pruner.stages(), prompt) as trace:
        logits = model(inputs_embeds=prompt.embeds[None]).logits[0]
        twice = model(inputs_embeds=prompt.embeds[None].repeat(2, 1, 1)).logits
    assert trace.processed[layer].tolist() == at.tolist()
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twice[1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pairs", [1, 30, 2**24])
def test_merging_is_one_after_another_a_few_rows_at_a_time(pairs, monkeypatch):
    monkeypatch.setattr(holitom, "PAIRS_AT_ONCE", pairs)
    hidden = torch.randn(17, 8, generator=torch.Generator().manual_seed(1))
    hosts, dropped = torch.arange(17) % 5 == 2, torch.arange(17) % 5 > 2
    merged = average_into_most_similar(hidden, hosts, dropped)
    lists = (torch.nonzero(mask).flatten().tolist() for mask in (hosts, dropped))
    torch.testing.assert_close(merged, one_after_another(hidden, *lists), atol=1e-6, rtol=1e-5)
    assert torch.equal(merged[~hosts], hidden[~hosts])


def test_it_needs_the_operations_that_it_says(llm, make_prompt):
    model, prompt = llm("eager"), make_prompt(frames=(5, 3, 6))
    shape, pruner = LLMShape(48, 44, 5, 6, 2, 8, 61), HoliTomLayers(layer=3, ratio=0.3)
    counts = []
    for stages in (pruner.stages(), ()):
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), layer_pruning(model.model.layers, stages, prompt) as trace, counter:
            model(inputs_embeds=prompt.embeds[None], use_cache=False, logits_to_keep=1)
        counts.append((counter.get_total_flops(), trace.layer_lengths))
    (pruned, lengths), (whole, all_of_them) = counts
    saved = prefill_flops(shape, all_of_them) - prefill_flops(shape, lengths)
    assert pruned == whole - saved + pruner.flops(shape, lengths, prompt.role)


@pytest.mark.parametrize(("settings", "message"), [({"layer": 0}, "no layer before it"), ({"ratio": 0.0}, "outside")])
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HoliTomLayers(**settings)
