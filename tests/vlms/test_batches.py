"""Several prompts in one batch, and prompts that share their beginning: the same answers as one by one."""

from dataclasses import replace

import pytest
import torch
from helpers.answers import answers
from helpers.small_videos import Clip
from torch import Tensor

from lmms_kvtp.cost.flops import LLMShape, prefill_flops
from lmms_kvtp.method import Method, build_method
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions, PackedTokens, Prompt
from lmms_kvtp.vlms.layout import text_run
from lmms_kvtp.vlms.llava_video import LlavaVideo
from lmms_kvtp.vlms.reading import PrefixCache, pad_left

OPTIONS = GenerationOptions(max_new_tokens=7)
QUESTIONS = [
    "What is it?",
    "Which of these things happens in the video after the door was opened?\nA. none\nB. all",
    "Why?",
    "Where is the person with the red bag?",
]


def packed(count: int) -> PackedTokens:
    embeds = torch.randn(count, 48, generator=torch.Generator().manual_seed(count))
    return PackedTokens(embeds, torch.arange(count) // 25, torch.arange(count) % 25, torch.ones(count), (5, 5), 3)


def prompts(vlm: LlavaVideo) -> list[Prompt]:
    return [vlm.assemble([packed(9 + 17 * n)], text) for n, text in enumerate(QUESTIONS)]


def method(**settings: str) -> Method:
    plain = {"scorer": "uniform", "allocator": "uniform", "pruner": "random", "keep_ratio": "0.4", **settings}
    return build_method(plain, {"encoder": "siglip"})


def ask(vlm: LlavaVideo, made: Method, batch_size: int = 1, questions: list[str] = QUESTIONS) -> list[Answer]:
    asked = [Question(prompt=text) for text in questions]
    return list(answers(vlm, made, [Clip(9, seed=9)], asked, OPTIONS, batch_size=batch_size))


def rows_of(vlm: LlavaVideo) -> tuple[list[int], torch.utils.hooks.RemovableHandle]:
    rows: list[int] = []
    return rows, vlm.network.llm.lm_head.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))


@pytest.mark.parametrize("until", [(), ("a", "e")])
def test_a_batch_answers_as_its_prompts_do_alone(vlm: LlavaVideo, until: tuple[str, ...]) -> None:
    options = replace(OPTIONS, max_new_tokens=12, until=until)
    alone = [vlm.generate([prompt], options)[0] for prompt in prompts(vlm)]
    rows, hook = rows_of(vlm)
    together = vlm.generate(prompts(vlm), options)
    hook.remove()
    assert set(rows) == {4}
    assert [(made.text, made.num_tokens) for made in together] == [(made.text, made.num_tokens) for made in alone]
    assert [made.layer_lengths for made in together] == [(prompt.length,) * 4 for prompt in prompts(vlm)]
    assert len({made.text for made in together}) == 4
    if until:
        assert len({made.num_tokens for made in together}) > 1


def test_the_end_of_one_answer_leaves_the_others_alone(vlm: LlavaVideo) -> None:
    early = vlm.defaults.eos_token_id
    vlm.defaults.eos_token_id = int(vlm.next_token_logits(prompts(vlm)[1]).argmax())
    vlm.__dict__.pop("settings", None)  # made of the defaults, once
    try:
        alone = [vlm.generate([prompt], OPTIONS)[0] for prompt in prompts(vlm)]
        together = vlm.generate(prompts(vlm), OPTIONS)
    finally:
        vlm.defaults.eos_token_id = early
        del vlm.__dict__["settings"]
    assert [made.num_tokens for made in together] == [made.num_tokens for made in alone]
    assert together[1].num_tokens == 1 and max(made.num_tokens for made in together) == 7


def test_a_batch_shares_its_seconds(vlm: LlavaVideo) -> None:
    together = vlm.generate(prompts(vlm), OPTIONS)
    assert len({(made.prefill_seconds, made.decode_seconds) for made in together}) == 1


@pytest.mark.parametrize(
    "options", [replace(OPTIONS, temperature=1.0, seed=3), replace(OPTIONS, num_beams=2)], ids=["sampling", "beams"]
)
def test_sampling_and_beams_go_one_by_one(vlm: LlavaVideo, options: GenerationOptions) -> None:
    alone = [vlm.generate([prompt], options)[0].text for prompt in prompts(vlm)]
    rows, hook = rows_of(vlm)
    together = [made.text for made in vlm.generate(prompts(vlm), options)]
    hook.remove()
    assert together == alone
    assert max(rows) == options.num_beams


def test_layer_pruning_goes_one_by_one(vlm: LlavaVideo) -> None:
    stages = method(layer_pruning="fastv").layer_pruning.stages()
    alone = [vlm.generate([prompt], OPTIONS, stages)[0] for prompt in prompts(vlm)]
    rows, hook = rows_of(vlm)
    together = vlm.generate(prompts(vlm), OPTIONS, stages)
    hook.remove()
    assert set(rows) == {1}
    assert [made.text for made in together] == [made.text for made in alone]
    assert [made.layer_lengths for made in together] == [made.layer_lengths for made in alone]


def test_no_prompts_have_no_answers(vlm: LlavaVideo) -> None:
    assert vlm.generate([], OPTIONS) == []


def test_padding_is_on_the_left_and_masked() -> None:
    first, second = torch.ones(2, 3), torch.ones(5, 3)
    embeds, mask = pad_left([first, second])
    assert mask.tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]
    assert embeds[0].sum(1).tolist() == [0, 0, 0, 3, 3]


@pytest.mark.parametrize("batch_size", [2, 3, 9])
@pytest.mark.parametrize("settings", [{}, {"pruner": "none", "keep_ratio": "1"}, {"pruner": "grid"}])
def test_batches_of_a_pipeline_answer_alike(vlm: LlavaVideo, batch_size: int, settings: dict[str, str]) -> None:
    alone = [made for text in QUESTIONS for made in ask(vlm, method(**settings), questions=[text])]
    together = ask(vlm, method(**settings), batch_size)
    assert [made.text for made in together] == [made.text for made in alone]
    assert [made.cost.prompt_tokens for made in together] == [made.cost.prompt_tokens for made in alone]
    assert {made.cost.reused_tokens for made in together} == {0}


def test_questions_share_the_prefill_of_a_video_that_no_question_prunes(vlm: LlavaVideo) -> None:
    alone = [made for text in QUESTIONS for made in ask(vlm, method(), questions=[text])]
    shared = ask(vlm, method())
    assert [made.text for made in shared] == [made.text for made in alone]
    first, *later = [made.cost for made in shared]
    assert first.reused_tokens == 0 and first.layer_lengths == (first.prompt_tokens,) * 4
    for cost in later:
        assert cost.reused_tokens >= 14 + cost.tokens_kept + cost.tokens_structural
        assert cost.layer_lengths == (cost.prompt_tokens - cost.reused_tokens,) * 4
        assert cost.flops["prefill"] == prefill_flops(vlm.llm, cost.layer_lengths, reused=cost.reused_tokens)
    assert [made.cost.flops["generate"] for made in shared] == [made.cost.flops["generate"] for made in alone]


def test_the_operations_counted_are_those_that_ran(vlm: LlavaVideo) -> None:
    """Against torch's counter: what the later question's prefill adds, layer by layer."""
    read: list[int] = []
    hook = vlm.network.llm.model.layers[2].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[1]))
    shared = ask(vlm, method())
    hook.remove()
    prefills = [length for length in read if length > 1]
    assert prefills == [made.cost.layer_lengths[2] for made in shared]


def test_the_tower_sees_a_video_once_whatever_is_asked(vlm: LlavaVideo) -> None:
    seen: list[int] = []
    hook = vlm.network.tower.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    answers = ask(vlm, method())
    hook.remove()
    assert len(answers) == 4 and sum(seen) == 9


def test_later_questions_on_a_video_cost_a_twentieth_at_most(vlm: LlavaVideo) -> None:
    """At the sizes of LLaVA-Video-7B: 128 frames of 14 x 14 tokens at 20 %, questions of 60 positions."""
    shape = LLMShape(3584, 18944, 28, 28, kv_heads=4, head_dim=128, vocabulary=151646)
    whole = 14 + int(0.2 * 128 * 196) + 128 + 60
    first = prefill_flops(shape, [whole] * 28)
    assert prefill_flops(shape, [60] * 28, reused=whole - 60) < 0.02 * first
    first, *later = [made.cost for made in ask(vlm, method(keep_ratio="1", pruner="none"), questions=["a?", "b?", "c"])]
    for cost in later:
        assert cost.flops["prefill"] <= 0.05 * first.flops["prefill"]


def test_methods_that_the_question_decides_share_no_prefill(vlm: LlavaVideo) -> None:
    pruned = method(layer_pruning="fastv")
    assert pruned.query_aware and not method().query_aware
    shared = ask(vlm, pruned)
    assert {made.cost.reused_tokens for made in shared} == {0}
    assert [made.text for made in shared] == [ask(vlm, pruned, questions=[text])[0].text for text in QUESTIONS]


def test_a_prefix_is_only_what_prompts_have_in_common(vlm: LlavaVideo) -> None:
    first, second = vlm.assemble([packed(30)], "What?"), vlm.assemble([packed(30)], "Which?")
    other = vlm.assemble([packed(31)], "What?")
    prefix = PrefixCache()
    reused = [vlm.generate([prompt], OPTIONS, prefix=prefix)[0] for prompt in (first, second, other, other)]
    alone = [vlm.generate([prompt], OPTIONS)[0] for prompt in (first, second, other, other)]
    assert [made.text for made in reused] == [made.text for made in alone]
    assert [made.reused for made in reused][2:] == [14, other.length - 1]
    assert 14 + 30 < reused[1].reused < second.length - 1


def test_a_prompt_that_fails_leaves_no_prefix(vlm: LlavaVideo) -> None:
    prompt, prefix = vlm.assemble([packed(30)], "What?"), PrefixCache()
    vlm.generate([prompt], OPTIONS, prefix=prefix)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    hook = vlm.network.llm.model.layers[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        vlm.generate([prompt], OPTIONS, prefix=prefix)
    hook.remove()
    again = vlm.generate([prompt], OPTIONS, prefix=prefix)[0]
    assert again.reused == 0
    assert again.text == vlm.generate([prompt], OPTIONS)[0].text


def test_beams_share_no_prefix(vlm: LlavaVideo) -> None:
    prompt, prefix = vlm.assemble([packed(30)], "What?"), PrefixCache()
    beams = replace(OPTIONS, num_beams=3)
    made = [vlm.generate([prompt], beams, prefix=prefix)[0] for _ in range(2)]
    assert [one.reused for one in made] == [0, 0]
    assert made[0].text == vlm.generate([prompt], beams)[0].text


def test_taking_leaves_the_last_position_to_be_read() -> None:
    prefix, prompt = PrefixCache(), text_run(torch.randn(4, 3))

    class Layer:
        def __init__(self) -> None:
            self.keys: Tensor = torch.zeros(1, 2, 9, 3)
            self.values: Tensor = torch.zeros(1, 2, 9, 3)

    class Cache:
        layers = [Layer()]  # noqa: RUF012

    prefix.keep(prompt, Cache())
    cache, shared = prefix.take(prompt)
    assert shared == 3 and cache.layers[0].keys.shape[2] == 3
    assert prefix.take(prompt) == (None, 0)


def test_settings_that_are_kept_hold_for_every_answer(vlm: LlavaVideo) -> None:
    prompt, before = prompts(vlm)[0], vlm.defaults.repetition_penalty
    plain = vlm.generate([prompt], replace(OPTIONS, max_new_tokens=12))[0].text
    vlm.__dict__.pop("settings", None)  # made of the defaults, once
    vlm.defaults.repetition_penalty = 0.02  # what was said is said again
    try:
        first, again = (vlm.generate([prompt], replace(OPTIONS, max_new_tokens=12))[0].text for _ in range(2))
        short = vlm.generate([prompt], replace(OPTIONS, max_new_tokens=2))[0].num_tokens
    finally:
        vlm.defaults.repetition_penalty = before
        del vlm.__dict__["settings"]
    assert first == again != plain
    assert short <= 2
