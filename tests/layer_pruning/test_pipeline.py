"""Layer pruning behind scorer, allocator and pruner of a whole method, and what it is charged with."""

from dataclasses import replace

import pytest
import torch
from helpers import checkpoints
from helpers.answers import answers
from helpers.small_videos import Clip

from lmms_kvtp.cost.flops import decode_flops, prefill_flops
from lmms_kvtp.method import KVTP, build_method
from lmms_kvtp.questions import Question
from lmms_kvtp.types import TEXT, VISION, GenerationOptions, PackedTokens
from lmms_kvtp.vlms.llava_video import LoadOptions, load_llava_video

OPTIONS = GenerationOptions(max_new_tokens=5)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    folder = checkpoints.write_tiny(tmp_path_factory.mktemp("models") / "random")
    return load_llava_video(str(folder), LoadOptions(device="cpu"))


def ask(vlm, **settings):
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    method = build_method(settings, {**KVTP, "encoder.pretrained": vlm.default_encoder})
    [said] = answers(vlm, method, [Clip(7)], [Question("What happens?", stem="What happens?")], OPTIONS)
    return said.cost


@pytest.mark.parametrize("pruner", ["prumerge", "random", "none"])
def test_fastv_goes_on_where_kvtp_ends(vlm, pruner):
    ratio = "1" if pruner == "none" else "0.4"
    cost = ask(vlm, pruner=pruner, keep_ratio=ratio, layer_pruning="fastv", layer_pruning__ratio="0.3")
    short = cost.prompt_tokens - cost.tokens_kept + round(0.3 * cost.tokens_kept)
    assert cost.tokens_kept == int(float(ratio) * 7 * 25)
    assert cost.layer_lengths == (cost.prompt_tokens, cost.prompt_tokens, short, short)
    assert cost.flops["prefill"] == prefill_flops(vlm.llm, cost.layer_lengths)
    assert cost.flops["generate"] == decode_flops(vlm.llm, cost.layer_lengths, cost.output_tokens)


def test_prunevid_decodes_from_short_caches_everywhere(vlm):
    cost = ask(vlm, layer_pruning="prunevid", layer_pruning__layer="1", layer_pruning__rounding="exact")
    short = cost.prompt_tokens - cost.tokens_kept + round(0.4 * cost.tokens_kept)
    assert cost.layer_lengths == (cost.prompt_tokens, cost.prompt_tokens, short, short)
    assert cost.output_tokens > 1
    assert cost.flops["generate"] == decode_flops(vlm.llm, [short] * 4, cost.output_tokens)


def test_nothing_is_pruned_between_layers_unless_asked_for(vlm):
    cost = ask(vlm)
    assert cost.layer_lengths == (cost.prompt_tokens,) * 4
    assert not build_method({}, KVTP).layer_pruning.stages()


def test_the_method_records_layer_pruning():
    method = build_method({"layer_pruning": "pyramiddrop", "layer_pruning.layers": "1:2:3"}, KVTP)
    assert method.describe()["layer_pruning"]["layers"] == (1, 2, 3)
    uniform = {"scorer": "uniform", "pruner": "random"}
    assert not build_method(uniform, KVTP).query_aware
    assert build_method({**uniform, "layer_pruning": "fastv"}, KVTP).query_aware


def test_the_logits_are_those_that_generate_begins_with(vlm):
    method = build_method({"layer_pruning": "fastv", "layer_pruning.ratio": "0.1"}, KVTP)
    stages = method.layer_pruning.stages()
    embeds = torch.randn(6, 48, generator=torch.Generator().manual_seed(3))
    packed = PackedTokens(embeds, torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6), torch.ones(6), (5, 5), 3)
    prompt = vlm.assemble([packed], "Which?")
    [said] = vlm.generate([prompt], replace(OPTIONS, max_new_tokens=1), stages)
    pruned, whole = vlm.next_token_logits(prompt, stages), vlm.next_token_logits(prompt)
    assert said.text == vlm.tokenizer.decode(pruned.argmax(), skip_special_tokens=True).strip()
    assert (pruned - whole).abs().max() > 1e-3


def test_segments_of_the_pruner_reach_the_layers(vlm):
    """Two videos: their segments are counted on, text and newlines have none."""
    packed = PackedTokens(
        embeds=torch.randn(6, 48),
        frame=torch.tensor([0, 0, 0, 1, 1, 2]),
        patch=torch.tensor([0, 1, 2, 0, 1, 0]),
        size=torch.ones(6),
        grid=(5, 5),
        num_frames=3,
        segment=torch.tensor([0, 0, 1, 0, 2, 2]),
    )
    prompt = vlm.assemble([packed, packed], "Which?")
    assert prompt.segment[prompt.role == VISION].tolist() == [0, 0, 1, 0, 2, 2, 3, 3, 4, 3, 5, 5]
    assert set(prompt.segment[prompt.role != VISION].tolist()) == {-1}
    assert TEXT in prompt.role.tolist()
