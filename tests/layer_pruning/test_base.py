"""The block of hooks, with selections fixed in advance: lengths, logits, caches, and the model afterwards."""

import pytest
import torch
from transformers import DynamicCache

from lmms_kvtp.layer_pruning.base import Stage, layer_pruning
from lmms_kvtp.types import TEXT, VISION

STEPS = 4
# Layers before which tokens go, the positions of vision tokens that stay, and whether earlier caches shrink too.
PLANS = {
    "one stage": [(2, [4, 7, 11, 12], False)],
    "two stages": [(1, [3, 4, 7, 8, 12], False), (3, [4, 12], False)],
    "compressed": [(3, [5, 7, 10], True)],
    "compressed twice": [(2, [3, 5, 7, 10], True), (4, [5, 10], True)],
    "cut, then compressed": [(1, [3, 5, 7, 10, 11], False), (3, [5, 10], True)],
    "nothing left": [(2, [], False)],
    "at the first layer": [(0, [4, 7], False)],
}


def kept_by(plan, prompt, layers=5):
    """Positions per layer that prefill processes and that the cache holds in the end."""
    processed, cached, kept = [], [], torch.arange(prompt.length)
    stages = {layer: (stay, compress) for layer, stay, compress in plan}
    for index in range(layers):
        if index in stages:
            stay, compress = stages[index]
            kept = kept[(prompt.role[kept] != VISION) | torch.isin(kept, torch.tensor(stay))]
            cached = [kept] * index if compress else cached
        processed.append(kept)
        cached = [*cached, kept]
    return processed, cached


def generate(model, prompt, stages, **options):
    embeds = prompt.embeds[None]
    with layer_pruning(model.model.layers, stages, prompt) as trace:
        out = model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=STEPS + 1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    return out, trace


@pytest.fixture(params=PLANS, ids=lambda name: name.replace(" ", "-"))
def plan(request):
    return PLANS[request.param]


@pytest.fixture
def stages(plan, fixed_stage):
    return [fixed_stage(*stage) for stage in plan]


def test_prefill_gives_the_logits_of_a_plain_loop(model, make_prompt, reference, plan, stages):
    prompt = make_prompt()
    processed, _ = kept_by(plan, prompt)
    with torch.inference_mode(), layer_pruning(model.model.layers, stages, prompt) as trace:
        logits = model(inputs_embeds=prompt.embeds[None], use_cache=False).logits[0]
    assert trace.layer_lengths == tuple(map(len, processed))
    assert all(torch.equal(*pair) for pair in zip(trace.processed, processed, strict=True))
    torch.testing.assert_close(logits, reference.run(model, prompt, processed).logits, atol=1e-4, rtol=1e-4)


def test_decoding_gives_the_logits_of_a_plain_loop(model, make_prompt, reference, plan, stages):
    prompt = make_prompt()
    processed, cached = kept_by(plan, prompt)
    out, trace = generate(model, prompt, stages)
    tokens = out.sequences[0].tolist()
    expected = reference.run(model, prompt, processed, tokens[:-1], cached)
    # five layers of wide weights: kernels of some processors differ by 1.1e-4 from the loop
    torch.testing.assert_close(torch.cat(out.logits[1:]), expected.steps, atol=5e-4, rtol=1e-4)
    torch.testing.assert_close(out.logits[0][0], expected.logits[-1], atol=5e-4, rtol=1e-4)
    lengths = [layer.get_seq_length() for layer in out.past_key_values.layers]
    assert trace.cache_lengths == tuple(map(len, cached))
    assert lengths == [len(kept) + STEPS for kept in cached]


@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0}])
def test_beams_have_the_scores_of_a_plain_loop(model, make_prompt, reference, plan, stages, options):
    prompt = make_prompt()
    processed, cached = kept_by(plan, prompt)
    out, _ = generate(model, prompt, stages, output_scores=True, **options)
    for sequence, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        run = reference.run(model, prompt, processed, sequence[:-1], cached)
        steps = torch.cat([run.logits[-1:], run.steps]).log_softmax(-1)
        assert score == pytest.approx(sum(steps[i, token].item() for i, token in enumerate(sequence)), abs=1e-3)


def test_keeping_all_gives_the_unpruned_logits_bit_for_bit(model, make_prompt, fixed_stage):
    prompt = make_prompt()
    everything = list(range(prompt.length))
    unpruned, _ = generate(model, prompt, [])
    kept, trace = generate(model, prompt, [fixed_stage(1, everything), fixed_stage(3, everything, True)])
    assert torch.equal(torch.cat(kept.logits), torch.cat(unpruned.logits))
    assert trace.layer_lengths == trace.cache_lengths == (prompt.length,) * 5


def test_without_hooks_the_trace_has_the_whole_prompt(model, make_prompt):
    prompt = make_prompt()
    _, trace = generate(model, prompt, [])
    assert trace.layer_lengths == trace.cache_lengths == (prompt.length,) * 5


def test_a_prompt_without_vision_tokens_is_untouched(model, make_prompt, fixed_stage):
    prompt = make_prompt(frames=())
    assert (prompt.role == TEXT).all()
    unpruned, _ = generate(model, prompt, [])
    pruned, trace = generate(model, prompt, [fixed_stage(2, [], True)])
    assert torch.equal(torch.cat(pruned.logits), torch.cat(unpruned.logits))
    assert trace.layer_lengths == (prompt.length,) * 5


def hooks_of(model):
    return [dict(m._forward_pre_hooks) | dict(m._forward_pre_hooks_with_kwargs) for m in model.modules()]


def test_the_block_leaves_the_model_as_it_was(model, make_prompt, fixed_stage):
    prompt = make_prompt()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    mine = model.model.layers[1].register_forward_pre_hook(lambda *_: None)
    hooks, before = hooks_of(model), generate(model, prompt, [])[0]
    with pytest.raises(RuntimeError, match="stop"), layer_pruning(model.model.layers, [fixed_stage(2, [])], prompt):
        assert hooks_of(model) != hooks
        raise RuntimeError("stop")
    generate(model, prompt, [fixed_stage(2, [4], True)])
    assert hooks_of(model) == hooks
    mine.remove()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.cat(generate(model, prompt, [])[0].logits), torch.cat(before.logits))


def test_an_error_within_a_layer_leaves_no_hook(model, make_prompt):
    prompt = make_prompt()

    def select(inputs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(model, prompt, [Stage(2, 2, select)])
    assert not any(hooks_of(model))


def test_reading_the_prompt_again_starts_anew(model, make_prompt, fixed_stage):
    prompt = make_prompt()
    stages = [fixed_stage(2, [4, 8], True)]
    first, _ = generate(model, prompt, stages)
    with layer_pruning(model.model.layers, stages, prompt) as trace:
        for _ in range(2):
            again = model.generate(inputs_embeds=prompt.embeds[None], max_new_tokens=3, do_sample=False)
    assert again[0].tolist() == first.sequences[0].tolist()[:3]
    assert trace.layer_lengths == (19, 19, 12, 12, 12)
    assert trace.cache_lengths == (12,) * 5


def test_a_selection_sees_the_layer_it_asked_for(llm, make_prompt, reference, fixed_stage):
    model, prompt, seen = llm("sdpa"), make_prompt(), []

    def select(inputs):
        seen.append(inputs)
        return inputs.vision

    stages = [fixed_stage(1, [4, 7, 8]), Stage(3, 2, select), Stage(4, 4, select)]
    processed, _ = kept_by([(1, [4, 7, 8], False)], prompt)
    generate(model, prompt, stages)
    inputs = reference.run(model, prompt, processed).inputs
    for inputs_seen, index in zip(seen, [2, 4], strict=True):
        assert inputs_seen.layer is model.model.layers[index]
        assert torch.equal(inputs_seen.positions, processed[1])
        assert torch.equal(inputs_seen.role, prompt.role[processed[1]])
        assert torch.equal(inputs_seen.frame, prompt.frame[processed[1]])
        assert inputs_seen.entered == 9
        torch.testing.assert_close(inputs_seen.hidden, inputs[index][0], atol=1e-4, rtol=1e-4)
        cos, _ = inputs_seen.rotary
        half = torch.arange(4) / 4
        angle = processed[1][:, None] * 10000.0**-half
        torch.testing.assert_close(cos[:, :4], angle.cos(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([(5, 5)], "layers 0 to 4"),
        ([(2, 3)], "same layer or an earlier one"),
        ([(0, -1)], "layers 0 to 4"),
        ([(3, 3), (2, 2)], "overlap"),
        ([(2, 1), (3, 1)], "overlap"),
        ([(2, 2), (2, 2)], "overlap"),
    ],
)
def test_stages_that_do_not_fit_are_refused(llm, make_prompt, spec, message):
    stages = [Stage(layer, reads, lambda inputs: inputs.vision) for layer, reads in spec]
    with pytest.raises(ValueError, match=message), layer_pruning(llm("sdpa").model.layers, stages, make_prompt()):
        pass


def test_what_hooks_cannot_serve_is_refused(llm, make_prompt, fixed_stage):
    model, prompt = llm("sdpa"), make_prompt()
    other, longer = make_prompt(seed=2), make_prompt(frames=(3, 3, 4))
    with layer_pruning(model.model.layers, [fixed_stage(2, [4], True)], prompt):
        with pytest.raises(ValueError, match="reads 20 positions, the prompt has 19"):
            model(inputs_embeds=longer.embeds[None])
        with pytest.raises(ValueError, match="2 rows of a batch differ"):
            model(inputs_embeds=torch.stack([prompt.embeds, other.embeds]))
        cache = model(inputs_embeds=prompt.embeds[None]).past_key_values
        with pytest.raises(ValueError, match="goes on at position 19, got 11"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)
    with layer_pruning(model.model.layers, [fixed_stage(2, [4])], prompt):
        with pytest.raises(ValueError, match="start with an empty one"):
            model(inputs_embeds=prompt.embeds[None], past_key_values=cache)
        with pytest.raises(ValueError, match="cannot prune with a StaticCache"):
            model.generate(
                inputs_embeds=prompt.embeds[None], max_new_tokens=3, do_sample=False, cache_implementation="static"
            )


@pytest.mark.parametrize("compress", [False, True])
def test_several_positions_decode_at_once(model, make_prompt, reference, fixed_stage, compress):
    prompt, tokens, plan = make_prompt(), [7, 31, 12], [(2, [4, 8, 11], compress)]
    processed, cached = kept_by(plan, prompt)
    cache, positions = DynamicCache(), torch.arange(19, 22)[None]
    with torch.inference_mode(), layer_pruning(model.model.layers, [fixed_stage(*plan[0])], prompt):
        model(inputs_embeds=prompt.embeds[None], past_key_values=cache)
        logits = model(input_ids=torch.tensor([tokens]), past_key_values=cache, position_ids=positions).logits[0]
    torch.testing.assert_close(
        logits, reference.run(model, prompt, processed, tokens, cached).steps, atol=1e-4, rtol=1e-4
    )
