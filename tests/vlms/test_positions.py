"""Rotary positions of pruned prompts: those of the unpruned one, as FastVID, EVS and V-CAST keep them."""

from dataclasses import replace

import pytest
import torch
from helpers.small_videos import Clip

from lmms_kvtp.encode import encode
from lmms_kvtp.method import build_method
from lmms_kvtp.pipeline import answer, prepare
from lmms_kvtp.questions import Question
from lmms_kvtp.types import NEWLINE, GenerationOptions, PackedTokens, Prompt
from lmms_kvtp.vlms.base import PromptTooLongError
from lmms_kvtp.vlms.layout import POLICIES, POSITIONS, Newlines
from lmms_kvtp.vlms.llava_video import LlavaVideo
from lmms_kvtp.vlms.reading import PrefixCache

OPTIONS = GenerationOptions(max_new_tokens=6)
VIDEO = torch.randn(3 * 25, 48, generator=torch.Generator().manual_seed(5))
KEPT = [1, 2, 9, 30, 31, 49, 52]


def packed(cells: list[int]) -> PackedTokens:
    at = torch.tensor(cells)
    return PackedTokens(VIDEO[at], at // 25, at % 25, torch.ones(len(at)), (5, 5), 3)


@pytest.fixture
def prompt(vlm: LlavaVideo) -> Prompt:
    return vlm.assemble([packed(KEPT), packed(KEPT[2:])], "What is it?", "kept")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("position", POSITIONS)
def test_every_place_has_the_position_that_it_has_where_all_is_kept(vlm, monkeypatch, position, policy):
    monkeypatch.setattr(vlm, "newlines", Newlines(position, policy))
    whole = vlm.assemble([packed(list(range(75)))] * 2, "What is it?", "kept")
    pruned = vlm.assemble([packed(KEPT), packed(KEPT[2:])], "What is it?", "kept")
    assert whole.positions is None and pruned.end == whole.length
    assert pruned.positions[-1] == whole.length - 1 and (pruned.positions.diff() > 0).all()
    assert torch.equal(whole.embeds[pruned.positions], pruned.embeds)
    assert torch.equal(whole.role[pruned.positions], pruned.role)
    newlines = pruned.positions[pruned.role == NEWLINE]
    assert torch.equal(whole.frame[newlines], pruned.frame[pruned.role == NEWLINE])
    evs = vlm.assemble([packed(KEPT), packed(KEPT[2:])], "What is it?", "evs")
    assert torch.equal(evs.positions, pruned.positions) and evs.end == pruned.end  # on one axis there are no columns


def steps(vlm: LlavaVideo, prompt: Prompt, count: int) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy decoding by transformers alone, each token from the whole sequence and its explicit positions."""
    llm, said, logits = vlm.network.llm, [], []
    for step in range(count):
        own = llm.get_input_embeddings()(torch.tensor(said, dtype=torch.long))
        places = torch.cat([prompt.positions, prompt.end + torch.arange(step)])
        mask = torch.ones(1, len(places), dtype=torch.long)
        out = llm(inputs_embeds=torch.cat([prompt.embeds, own])[None], position_ids=places[None], attention_mask=mask)
        logits.append(out.logits[0, -1])
        said.append(int(logits[-1].argmax()))
    return said, logits


@torch.inference_mode()
def test_answers_are_those_of_transformers_with_explicit_positions(vlm, prompt):
    said, logits = steps(vlm, prompt, 6)
    torch.testing.assert_close(vlm.next_token_logits(prompt), logits[0], atol=1e-4, rtol=1e-4)
    anew = replace(prompt, positions=None, span=None)
    assert (vlm.next_token_logits(anew) - logits[0]).abs().max() > 1e-2
    seen = []
    hook = vlm.network.llm.lm_head.register_forward_hook(lambda module, args, out: seen.append(out[0, -1]))
    vlm.generate([prompt], OPTIONS)
    hook.remove()
    torch.testing.assert_close(torch.stack(seen[: len(said)]), torch.stack(logits[: len(seen)]), atol=1e-3, rtol=1e-4)
    assert not vlm.network.llm.model.rotary_emb._forward_pre_hooks


def test_a_batch_and_beams_have_each_prompt_at_its_own_positions(vlm, prompt):
    others = [vlm.assemble([packed(KEPT)], "Why? " * n, p) for n, p in ((1, "kept"), (9, "renumbered"), (5, "kept"))]
    mixed = [prompt, *others]
    together = vlm.generate(mixed, OPTIONS)
    assert [made.text for made in together] == [vlm.generate([one], OPTIONS)[0].text for one in mixed]
    one = replace(OPTIONS, max_new_tokens=1)
    assert vlm.generate([prompt], replace(one, num_beams=3))[0].text == vlm.generate([prompt], one)[0].text


def test_a_prefix_is_shared_only_where_positions_are_equal_too(vlm, prompt):
    other = vlm.assemble([packed(KEPT), packed(KEPT[2:])], "What is that?", "kept")
    moved = vlm.assemble([packed(KEPT), packed(KEPT[2:])], "What is it?", "renumbered")
    assert torch.equal(moved.embeds, prompt.embeds)
    first = int((prompt.positions != torch.arange(prompt.length)).long().argmax())
    prefix = PrefixCache()
    made = [vlm.generate([one], OPTIONS, prefix=prefix)[0] for one in (prompt, other, other, moved, prompt)]
    assert [one.text for one in made] == [
        vlm.generate([one], OPTIONS)[0].text for one in (prompt, other, other, moved, prompt)
    ]
    assert made[1].reused > len(KEPT) + first and made[2].reused == other.length - 1
    assert made[3].reused == made[4].reused == first


def test_a_method_keeps_positions_as_it_says_and_records_it(vlm):
    plain = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "keep_ratio": "0.4"}
    clip, question = Clip(5), Question("What?")
    kept, anew = (build_method({**plain, **more}, {"encoder": "siglip"}) for more in ({"positions": "kept"}, {}))
    assert (kept.describe()["positions"], anew.describe()["positions"]) == ("kept", "renumbered")
    ready = prepare(vlm, kept, [encode(vlm, kept, clip)], question)
    assert ready.prompt.end > ready.prompt.length
    assert prepare(vlm, anew, [encode(vlm, anew, clip)], question).prompt.positions is None
    assert answer(vlm, kept, [clip], question, OPTIONS).cost.prompt_tokens == ready.prompt.length


def test_layers_that_are_pruned_keep_the_positions_of_the_whole_prompt(vlm, prompt):
    fastv = build_method(
        {"pruner": "none", "layer_pruning": "fastv", "layer_pruning.ratio": "1"},
        {"encoder": "siglip", "scorer": "uniform", "allocator": "uniform"},
    ).layer_pruning
    assert torch.equal(vlm.next_token_logits(prompt, fastv.stages()), vlm.next_token_logits(prompt))


def test_positions_that_contradict_or_do_not_fit_are_refused(vlm, monkeypatch):
    plain = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "layer_pruning": "pyramiddrop"}
    anew = {"layer_pruning.positions": "renumbered"}
    with pytest.raises(ValueError, match=r"PyramidDrop numbers them anew; set layer_pruning.positions=kept, or leave"):
        build_method({**plain, **anew, "positions": "kept"}, {"encoder": "siglip"})
    for given, default, found in (("kept", "renumbered", "kept"), ("renumbered", "kept", "renumbered")):
        made = build_method({**plain, "positions": given}, {"encoder": "siglip", "positions": default})
        assert made.describe()["layer_pruning"]["positions"] == found
    with pytest.raises(ValueError, match="positions='gaps' is not one of renumbered, kept, evs"):
        build_method({**plain, "positions": "gaps"}, {"encoder": "siglip"})
    end = vlm.assemble([packed(KEPT)], "What?", "kept").end
    monkeypatch.setattr(vlm, "limit", end - 1)
    assert vlm.assemble([packed(KEPT)], "What?").length < end - 1
    with pytest.raises(PromptTooLongError, match=f"has {end} positions"):
        vlm.assemble([packed(KEPT)], "What?", "kept")
