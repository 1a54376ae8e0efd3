"""The closed forms against the operation counter of torch, on the real classes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lmms_kvtp.cost.flops import (
    LLMShape,
    TextShape,
    VisionShape,
    decode_flops,
    pooling_head_flops,
    prefill_flops,
    projector_flops,
    text_flops,
    vision_flops,
)
from lmms_kvtp.cost.meter import counting, unfused

VISION = VisionShape(image_size=44, patch_size=6, hidden=24, intermediate=40, layers=3, heads=4)
LLM = LLMShape(hidden=32, intermediate=56, layers=2, heads=4, kv_heads=2, head_dim=8, vocabulary=71)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def siglip(head: bool) -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=VISION.hidden,
        intermediate_size=VISION.intermediate,
        num_hidden_layers=VISION.layers,
        num_attention_heads=VISION.heads,
        image_size=VISION.image_size,
        patch_size=VISION.patch_size,
        vision_use_head=head,
    )
    config._attn_implementation = "eager"
    return SiglipVisionModel(config).eval()


def qwen() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        hidden_size=LLM.hidden,
        intermediate_size=LLM.intermediate,
        num_hidden_layers=LLM.layers,
        num_attention_heads=LLM.heads,
        num_key_value_heads=LLM.kv_heads,
        vocab_size=LLM.vocabulary,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    return Qwen2ForCausalLM(config).eval()


@pytest.mark.parametrize("frames", [1, 5])
def test_vision_tower_equals_the_counter(frames):
    pixels = torch.rand(frames, 3, VISION.image_size, VISION.image_size)
    assert counted(lambda: siglip(head=False)(pixels)) == vision_flops(VISION, frames)


def test_pooling_head_is_what_the_head_adds():
    head = siglip(head=True).head if hasattr(siglip(head=True), "head") else siglip(head=True).vision_model.head
    patches = torch.rand(5, VISION.patches, VISION.hidden)
    head.train()  # the fused inference path of nn.MultiheadAttention is one operation that the counter cannot see into
    assert counted(lambda: head(patches)) == pooling_head_flops(VISION, 5)


def test_projector_equals_the_counter():
    projector = torch.nn.Sequential(
        torch.nn.Linear(VISION.hidden, LLM.hidden), torch.nn.GELU(), torch.nn.Linear(LLM.hidden, LLM.hidden)
    )
    patches = torch.rand(5, VISION.patches, VISION.hidden)
    assert counted(lambda: projector(patches)) == projector_flops(VISION, LLM, 5)


def test_prefill_equals_the_counter():
    embeds = torch.rand(1, 13, LLM.hidden)
    model = qwen()
    rotary = counted(lambda: model.model.rotary_emb(embeds, torch.arange(13)[None]))  # positions x frequencies
    run = counted(lambda: model(inputs_embeds=embeds, logits_to_keep=1))
    assert run - rotary == prefill_flops(LLM, [13] * LLM.layers)


def test_decoding_equals_the_counter():
    model, cache = qwen(), None

    def run() -> None:
        nonlocal cache
        for step in range(3):  # an answer of 4 tokens: the first one came out of prefill
            cache = model(torch.tensor([[step]]), past_key_values=cache).past_key_values

    with torch.no_grad():
        cache = model(torch.arange(11)[None]).past_key_values
    rotary = 3 * counted(lambda: model.model.rotary_emb(torch.rand(1, 1, LLM.hidden), torch.zeros(1, 1).long()))
    assert counted(run) - rotary == decode_flops(LLM, [11] * LLM.layers, new_tokens=4)


def test_pruned_layers_cost_their_own_lengths():
    full, half = prefill_flops(LLM, [20, 20]), prefill_flops(LLM, [20, 10])
    assert full - half == prefill_flops(LLM, [20]) - prefill_flops(LLM, [10])


def test_a_one_token_answer_has_no_decoding():
    assert decode_flops(LLM, [11, 11], new_tokens=1) == 0


def test_what_is_reused_costs_attention_only():
    model = qwen()
    with torch.no_grad():
        cache = model(torch.arange(9)[None]).past_key_values
    rotary = counted(lambda: model.model.rotary_emb(torch.rand(1, 5, LLM.hidden), torch.arange(5)[None]))
    run = counted(lambda: model(torch.arange(5)[None], past_key_values=cache, logits_to_keep=1))
    assert run - rotary == prefill_flops(LLM, [5] * LLM.layers, reused=9)


def test_causal_attention_counts_the_pairs_below_the_diagonal():
    pairs = sum(key <= query + 4 for query in range(7) for key in range(11))
    full, causal = prefill_flops(LLM, [7], reused=4), prefill_flops(LLM, [7], reused=4, causal=True)
    assert full - causal == 4 * LLM.heads * LLM.head_dim * (7 * 11 - pairs)


def test_text_tower_equals_the_counter():
    shape = TextShape(hidden=24, intermediate=40, layers=3, projection=20)
    config = SiglipTextConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=50,
        projection_size=20,
        max_position_embeddings=16,
    )
    config._attn_implementation = "eager"
    model = SiglipTextModel(config).eval()
    run = counted(lambda: [model(torch.ones(2, 9).long()), model(torch.ones(1, 4).long())])
    assert run == text_flops(shape, [9, 9, 4])


def test_counting_sees_distances_that_torch_does_not():
    with counting() as found:
        torch.cdist(torch.rand(30, 5), torch.rand(40, 5))  # above 25 rows another kernel runs
        torch.cdist(torch.rand(2, 8, 5), torch.rand(2, 9, 5))
        torch.rand(3, 4) @ torch.rand(4, 7)
    assert found.flops == 2 * 30 * 40 * 5 + 2 * 2 * 8 * 9 * 5 + 2 * 3 * 4 * 7


def test_counting_sees_into_torchs_own_attention_where_it_is_not_fused():
    attention, tokens = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.rand(1, 5, 8)
    with torch.inference_mode(), unfused(), counting() as found:
        attention(tokens, tokens, tokens, need_weights=False)
    assert found.flops == 4 * (2 * 5 * 8 * 8) + 2 * (2 * 5 * 5 * 8)
