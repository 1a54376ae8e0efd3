"""Back ends on classes of transformers: all tokens kept is the stock class, pruned is the masked one, and so on."""

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.native_checkpoints import FAMILIES, write_native
from torch import Tensor
from transformers import __version__

from lmms_kvtp.cost.meter import Meter, counting
from lmms_kvtp.doctor.reference import reference_logits, speak
from lmms_kvtp.encode import encode
from lmms_kvtp.layer_pruning.base import Stage, StageInput
from lmms_kvtp.layer_pruning.parts.attention import last_query_attention
from lmms_kvtp.method import Method, build_method
from lmms_kvtp.pipeline import prepare, prune, weigh
from lmms_kvtp.questions import Question
from lmms_kvtp.types import MARKUP, VISION, GenerationOptions, PackedTokens, Prompt
from lmms_kvtp.video.load import SampledVideo, video_from_frames
from lmms_kvtp.video.pixels import ProcessorPixels
from lmms_kvtp.vlms.base import LoadOptions, PromptTooLongError, load_vlm
from lmms_kvtp.vlms.native import NativeVLM
from lmms_kvtp.vlms.reading import PrefixCache

QUESTION = Question("What color is the star?\nA. red\nB. blue")
TEXT = GenerationOptions(12)
FULL = {"keep_ratio": "1", "scorer": "uniform", "allocator": "uniform", "pruner": "none"}
SOME = {"keep_ratio": "0.3", "scorer": "uniform", "allocator": "uniform", "pruner": "random"}


def clip(vlm: NativeVLM, count: int = 10, chunk: int = 16, seed: int = 0) -> SampledVideo:
    """A video of blocks, on a grid of 7 x 11 tokens in Qwen2.5-VL, at 4 frames a second."""
    blocks = torch.randint(0, 256, (count, 12, 20, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    rgb = blocks.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    return video_from_frames(rgb, "clip", fps=4.0, options=replace(vlm.frames, chunk_size=chunk))


@dataclass(frozen=True)
class Case:
    """A back end with its stock inputs for one video and question."""

    vlm: NativeVLM
    inputs: Any

    def method(self, **settings: str) -> Method:
        return build_method({**SOME, **settings}, {"encoder": "siglip", "positions": self.vlm.positions[0]})

    def prompt(self, **settings: str) -> Prompt:
        method = self.method(**settings)
        return prepare(self.vlm, method, [encode(self.vlm, method, clip(self.vlm))], QUESTION).prompt

    @property
    def vision(self) -> Tensor:
        return self.inputs["input_ids"][0] == getattr(self.vlm.model.config, self.vlm.placeholder)

    def stock(self, **more: Any) -> Any:
        """The stock class on the processor's own inputs."""
        self.vlm.model.model.rope_deltas = None
        with torch.inference_mode():
            return self.vlm.model(**self.inputs, **more)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family = request.param
    folder = write_native(family, tmp_path_factory.mktemp(family), penalty=1.3)
    least = {} if family == "internvl" else {"min_pixels": 4096}
    vlm = load_vlm(str(folder), LoadOptions(device="cpu", attn_implementation="eager", **least))
    assert isinstance(vlm, NativeVLM)
    [frames] = clip(vlm).chunks()
    inputs = vlm.stock_inputs(frames, clip(vlm).timing, QUESTION.prompt)
    return Case(vlm, inputs)


def test_all_tokens_kept_is_the_stock_class(case: Case) -> None:
    prompt, vlm = case.prompt(**FULL), case.vlm
    assert prompt.ids is not None and torch.equal(prompt.ids, case.inputs["input_ids"][0])
    torch.testing.assert_close(vlm.next_token_logits(prompt), case.stock().logits[0, -1], atol=1e-4, rtol=1e-4)
    limits: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1.3}
    ids = vlm.model.generate(**case.inputs, **limits, eos_token_id=vlm.chat.end, pad_token_id=vlm.chat.pad)
    made = vlm.tokenizer.decode(ids[0, prompt.length :], skip_special_tokens=True).strip()
    assert vlm.generate([prompt], TEXT)[0].text == made


def test_the_doctor_compares_frames_at_the_size_that_the_stock_wrapper_gives_them(case: Case) -> None:
    """Limits between which no whole tokens lie have Qwen2.5-VL's processor resize what was resized before."""
    vlm = with_options(case, min_pixels=20000, max_pixels=21500)
    [check] = reference_logits(vlm)
    assert check.difference < 1e-4
    if vlm.family == "qwen2_5_vl" and not __version__.startswith("4."):  # whose processor has limits of its own
        spec = vlm.spec(6)
        assert isinstance(spec, ProcessorPixels) and spec.target(90, 160) == (84, 168)
        assert replace(spec, again=None).target(90, 160) == (112, 196)


def test_an_answer_comes_with_the_scores_that_chose_it(case: Case) -> None:
    vlm, limits = case.vlm, {"max_new_tokens": 5, "do_sample": False, "repetition_penalty": 1.3}
    told: dict[str, Any] = {**limits, "output_scores": True, "return_dict_in_generate": True}
    made = speak(vlm, case.prompt(**FULL), 5)
    theirs = vlm.model.generate(**case.inputs, **told, eos_token_id=vlm.chat.end, pad_token_id=vlm.chat.pad)
    assert made.ids == theirs.sequences[0, case.inputs["input_ids"].shape[1] :].tolist()
    torch.testing.assert_close(made.scores, torch.cat(theirs.scores), atol=1e-4, rtol=1e-4)


def kept_of(case: Case, prompt: Prompt) -> Tensor:
    """Places of the prompt of all tokens that a pruned prompt has kept, by the stock class's own vision features."""
    whole = case.prompt(**FULL)
    rows = (whole.embeds[:, None] == prompt.embeds[None]).all(dim=2) & (whole.role == VISION)[:, None]
    kept = rows.any(dim=1) | (whole.role != VISION)
    assert int(kept.sum()) == prompt.length
    return kept


def reread(case: Case, kept: Tensor, said: list[int], late: Tensor, merging: int | None = None, **more: Any) -> Any:
    """The stock class on the prompt and some of an answer, in whose layers nothing sees what is not kept there.

    Args:
        case: model and prompt.
        kept: places of the prompt that the prompt sees, by layer.
        said: ids of the answer.
        late: places of the prompt that the answer sees, by layer.
        merging: layer before which dropped tokens are averaged into the kept ones, one after another.
        more: what the class is asked for.
    """
    length, vision = kept.shape[1], case.vision

    def before(index: int, layer: Any, given: Any, named: Any) -> Any:
        mask = named["attention_mask"].clone()
        mask[:, :, :length, :length][..., ~kept[index]] = torch.finfo(mask.dtype).min
        mask[:, :, length:, :length][..., ~late[index]] = torch.finfo(mask.dtype).min
        if index != merging:
            return given, named | {"attention_mask": mask}
        hidden, hosts = given[0].clone(), torch.nonzero(kept[index] & vision).flatten()
        for place in torch.nonzero(kept[index - 1] & ~kept[index]).flatten():
            host = hosts[torch.cosine_similarity(given[0][0, hosts], given[0][:, place]).argmax()]
            hidden[0, host] = (hidden[0, host] + given[0][0, place]) / 2
        return (hidden, *given[1:]), named | {"attention_mask": mask}

    inputs, ids = dict(case.inputs), torch.tensor([said], dtype=torch.long)
    for name, other in (("input_ids", ids), ("attention_mask", ids * 0 + 1), ("mm_token_type_ids", ids * 0)):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], other], dim=1)
    layers = enumerate(case.vlm.layers)
    hooks = [layer.register_forward_pre_hook(partial(before, n), with_kwargs=True) for n, layer in layers]
    try:
        return replace(case, inputs=inputs).stock(**more)
    finally:
        for hook in hooks:
            hook.remove()


def masked(case: Case, kept: Tensor, first_layer: int = 0) -> Tensor:
    """Logits of the stock class in whose layers, from one on, nothing sees what is not kept."""
    marks = torch.ones(5, len(kept), dtype=torch.bool)
    marks[first_layer:] = kept
    logits: Tensor = reread(case, marks, [], marks).logits[0, -1]
    return logits


def test_pruned_is_the_stock_class_that_sees_nothing_of_what_was_dropped(case: Case) -> None:
    method, vlm = case.method(), case.vlm
    visual = encode(vlm, method, clip(vlm))
    weighed = weigh(method, visual, QUESTION, Meter(vlm.device))
    budgets = weighed.budgets.clone()
    budgets[1] += budgets[0]
    budgets[0] = 0  # the first step loses everything
    packed = prune(method, visual, replace(weighed, budgets=budgets), Meter(vlm.device))
    prompt = vlm.assemble([packed], QUESTION.prompt, "kept")
    kept = kept_of(case, prompt)
    assert int((prompt.role == VISION).sum()) == len(packed.embeds) < int(case.vision.sum()) / 3
    assert int((prompt.role == MARKUP).sum()) == int((case.prompt(**FULL).role == MARKUP).sum())
    pruned = vlm.next_token_logits(prompt)
    torch.testing.assert_close(pruned, masked(case, kept), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(pruned, case.stock().logits[0, -1], atol=0.1)


def emptied(case: Case, *steps: int) -> PackedTokens:
    """Some tokens of each step but of these."""
    whole = encode(case.vlm, case.method(), clip(case.vlm)).tokens.whole()
    kept = ~torch.isin(whole.frame, torch.tensor(steps)) & (whole.patch % 3 == 0)
    parts = {name: getattr(whole, name)[kept] for name in ("embeds", "frame", "patch", "size")}
    return replace(whole, **parts, deep=None if whole.deep is None else whole.deep[kept])


def with_options(case: Case, **options: Any) -> NativeVLM:
    """The back end on the same model, with other options."""
    vlm = case.vlm
    return type(vlm)(vlm.name, vlm.model, vlm.processor, replace(vlm.options, **options))


@pytest.mark.parametrize("steps", [(0, 1), (2,), (1, 4, 9)])
def test_the_text_of_emptied_steps_goes_where_that_is_asked(case: Case, steps: tuple[int, ...]) -> None:
    if case.vlm.family == "qwen2_5_vl":
        pytest.skip("its steps have no text")
    packed, vlm = emptied(case, *steps), with_options(case, empty="drop")
    kept, dropped = (each.assemble([packed], "Who?", "kept") for each in (case.vlm, vlm))
    assert kept.ids is not None and dropped.ids is not None
    told, left = (case.vlm.tokenizer.decode(prompt.ids) for prompt in (kept, dropped))
    if case.vlm.family == "internvl":
        blocks = [f"Frame{step + 1}: <img></img>" for step in steps if step < packed.num_frames]
        rest = re.sub(r"(<IMG_CONTEXT>)+", "", told)
        shown = [block for block in re.findall(r"Frame\d+: <img></img>", rest) if block not in blocks]
        head, tail = rest.partition("Frame1")[0], rest.rpartition("</img>")[2]
        assert re.sub(r"(<IMG_CONTEXT>)+", "", left) == head + "\n".join(shown) + tail
    else:
        assert "seconds><|vision_start|><|vision_end|>" in told
        assert left == re.sub(r"<[\d.]+ seconds><\|vision_start\|><\|vision_end\|>", "", told)
    assert kept.positions is not None and dropped.positions is not None
    columns = [tuple(column) for column in dropped.positions.view(-1, dropped.length).T.tolist()]
    before = [tuple(column) for column in kept.positions.view(-1, kept.length).T.tolist()]
    assert set(columns) < set(before) and columns == [column for column in before if column in set(columns)]
    assert dropped.end == kept.end and int((dropped.role == MARKUP).sum()) < int((kept.role == MARKUP).sum())
    assert torch.equal(dropped.frame[dropped.role == VISION], kept.frame[kept.role == VISION])


def test_text_goes_on_behind_the_columns_of_a_video_by_the_rule_of_evs(case: Case) -> None:
    vlm = case.vlm
    rgb = torch.randint(0, 256, (6, 320, 160, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tall = encode(vlm, case.method(**FULL), video_from_frames(rgb, "tall", 2.0, options=vlm.frames)).tokens.whole()
    for packed in (tall, encode(vlm, case.method(**FULL), clip(vlm)).tokens.whole()):
        kept, evs = (vlm.assemble([packed], "Who?", rule) for rule in ("kept", "evs"))
        assert kept.positions is not None and evs.positions is not None
        if vlm.axes == 1:
            assert torch.equal(kept.positions, evs.positions) and kept.end == evs.end
            continue
        vision, place, first = evs.role == VISION, -1, 0
        for at, column in enumerate(evs.positions.T.tolist()):
            if not vision[at]:
                place += 1
                assert column == [place] * 3
                continue
            first = place + 1 if not vision[at - 1] else first
            if not vision[at - 1]:
                place += packed.grid[1]
            cell = int(torch.nonzero(torch.nonzero(vision).flatten() == at)) % (packed.grid[0] * packed.grid[1])
            row, across = divmod(cell, packed.grid[1])
            assert column[1:] == [first + row, first + across]
        assert evs.end == int(evs.positions.max()) + 1
        assert torch.equal(kept.positions, evs.positions) == (packed is not tall)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_tokens_dropped_inside_the_model_are_seen_by_no_later_layer(case: Case, layer: int) -> None:
    prompt, vlm = case.prompt(**FULL), case.vlm
    kept = (prompt.role != VISION) | (torch.arange(prompt.length) % 3 == 0)
    stage = Stage(layer, layer, lambda seen: kept[seen.positions])
    found = vlm.next_token_logits(prompt, [stage])
    torch.testing.assert_close(found, masked(case, kept, layer), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, case.stock().logits[0, -1], atol=0.05)
    answer = vlm.generate([prompt], TEXT, [stage])[0]
    assert answer.layer_lengths == (prompt.length,) * layer + (int(kept.sum()),) * (5 - layer)


DROPPING = {
    "fastv": {"layer": "1", "ratio": "0.3"},
    "holitom": {"layer": "2", "ratio": "0.2"},
    "prunevid": {"layer": "1", "alpha": "0.3"},
    "pyramiddrop": {"layers": "1:2:4", "ratios": "0.6:0.3:0.1"},
}
"""Layer pruners that drop before, between and behind the layers to which DeepStack adds."""


@pytest.mark.parametrize("name", DROPPING)
def test_layer_pruners_are_the_stock_class_that_sees_nothing_of_what_they_drop(case: Case, name: str) -> None:
    settings = {f"layer_pruning.{field}": value for field, value in DROPPING[name].items()}
    method, vlm = case.method(**FULL, positions="kept", layer_pruning=name, **settings), case.vlm
    prompt = prepare(vlm, method, [encode(vlm, method, clip(vlm))], QUESTION).prompt
    places, stages = torch.arange(prompt.length), method.layer_pruning.stages()
    kept = torch.ones(5, prompt.length, dtype=torch.bool)
    for number, stage in enumerate(stages):
        found = list[Tensor]()

        def select(seen: StageInput, stage: Stage = stage, found: list[Tensor] = found) -> Tensor:
            found.append(seen.positions[stage.select(seen) | ~seen.vision])
            return torch.isin(seen.positions, found[0])

        vlm.next_token_logits(prompt, [*stages[:number], replace(stage, select=select)])
        marks, there = torch.isin(places, found[0]), kept[stage.layer] & case.vision
        if name != "prunevid":  # tests/layer_pruning has what that ranks by
            paid = reread(case, kept, [], kept, output_attentions=True).attentions[stage.reads][0, :, -1].mean(dim=0)
            assert float(paid[there & marks].min()) > float(paid[there & ~marks].max()) - 1e-7
        kept[stage.layer :] = marks
    counts = [int((marks & case.vision).sum()) for marks in kept]
    assert counts[0] > counts[-1] > 0 and len(set(counts)) == len(stages) + 1
    late = kept[-1:].expand_as(kept) if name == "prunevid" else kept  # it drops from all caches
    merging, said = (stages[0].layer if name == "holitom" else None), list[int]()
    made = reread(case, kept, said, late, merging).logits[0, -1].clone()
    torch.testing.assert_close(vlm.next_token_logits(prompt, stages), made, atol=1e-4, rtol=1e-4)
    while len(said) < 4 and vlm.chat.end not in said:
        for token in {*case.inputs["input_ids"][0].tolist(), *said}:
            made[token] *= 1 / 1.3 if made[token] > 0 else 1.3  # the checkpoint's repetition penalty
        said.append(int(made.argmax()))
        made = reread(case, kept, said, late, merging).logits[0, -1].clone()
    answer = vlm.generate([prompt], GenerationOptions(4), stages)[0]
    assert answer.text == vlm.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_recomputed_scores_are_the_attention_of_the_layer(case: Case) -> None:
    prompt, seen = case.prompt(**FULL), list[StageInput]()

    def select(given: StageInput) -> Tensor:
        seen.append(given)
        return torch.ones_like(given.vision)

    case.vlm.next_token_logits(prompt, [Stage(2, 1, select)])
    attention = case.stock(output_attentions=True).attentions[1][0, :, -1].mean(dim=0)
    torch.testing.assert_close(last_query_attention(seen[0]), attention, atol=1e-6, rtol=1e-4)


def test_a_batch_answers_as_each_prompt_alone(case: Case) -> None:
    prompts, vlm = [case.prompt(), case.prompt(**FULL), case.vlm.assemble([], "Who are you?")], case.vlm
    alone = [vlm.generate([prompt], TEXT)[0].text for prompt in prompts]
    assert [made.text for made in vlm.generate(prompts, TEXT)] == alone
    assert len(set(alone)) == 3


def test_chunks_make_the_tokens_of_the_whole_video(case: Case) -> None:
    vlm, method = case.vlm, case.method()
    whole, parts = (encode(vlm, method, clip(vlm, chunk=chunk)).tokens for chunk in (16, 4))
    assert torch.equal(whole.embeds, parts.embeds) and whole.timing == parts.timing
    assert (whole.deep is None) == (case.vlm.family != "qwen3_vl")
    if vlm.frames_per_step == 2:
        sizes = list[int]()
        small, tower = with_options(case, vision_batch=5), vlm.model.model.visual
        hook = tower.register_forward_pre_hook(
            lambda module, args, named: sizes.append(int(named["grid_thw"][0, 0])), with_kwargs=True
        )
        torch.testing.assert_close(encode(small, method, clip(vlm)).tokens.embeds, whole.embeds, atol=1e-5, rtol=1e-5)
        hook.remove()
        assert sizes == [2, 2, 1], "steps, of two frames each: five frames at most stand in the tower"
    if whole.deep is not None and parts.deep is not None:
        assert torch.equal(whole.deep, parts.deep)


def test_patches_lie_row_by_row(case: Case) -> None:
    """What merges 2 x 2 of the patches that `look` returns makes its tokens."""
    vlm = case.vlm
    [frames] = clip(vlm).chunks()
    tokens, patches = vlm.look(frames, vlm.spec(10))
    rows, columns = (2 * side for side in tokens.grid)
    grid = patches.unflatten(1, (rows // 2, 2, columns // 2, 2))
    with torch.inference_mode():
        if vlm.family == "internvl":
            shuffled = vlm.model.model.pixel_shuffle(patches.unflatten(1, (rows, columns)), 0.5).flatten(1, 2)
            made = vlm.model.model.multi_modal_projector(shuffled)
        else:
            made = vlm.model.model.visual.merger(grid.transpose(2, 3).flatten(0, 4)).view(tokens.embeds.shape)
    torch.testing.assert_close(made, tokens.embeds, atol=1e-5, rtol=1e-5)


def test_tower_and_language_model_need_the_operations_that_they_say(case: Case) -> None:
    vlm = case.vlm
    [frames] = clip(vlm).chunks()
    with counting() as found:
        tokens, _ = vlm.look(frames, vlm.spec(10))
    pool = vlm.pooling(*frames.pixels(vlm.spec(10)).shape[-2:])
    assert pool.grid == tokens.grid
    assert sum(vlm.vision_flops(pool, tokens.num_frames)) == found.flops


def test_later_questions_reuse_what_they_share_and_nothing_else(case: Case) -> None:
    vlm, prefix = case.vlm, PrefixCache()
    first, second = case.prompt(), vlm.assemble(_packed(case), "Where is it?")
    alone = vlm.generate([second], TEXT)[0].text
    vlm.generate([first], TEXT, prefix=prefix)
    again = vlm.generate([second], TEXT, prefix=prefix)[0]
    assert again.text == alone and again.reused >= int(torch.nonzero(second.role == VISION).max())
    place = int(torch.nonzero(second.role == VISION)[3])
    others = []
    if second.positions is not None:
        moved = second.positions.clone()
        (moved if moved.ndim == 1 else moved[-1])[place] += 1
        others.append(replace(second, positions=moved))
    if second.deep is not None:
        other = second.deep.clone()
        other[1, place] += 1
        others.append(replace(second, deep=other))
    for changed in others:
        vlm.generate([second], TEXT, prefix=prefix)
        assert vlm.generate([changed], TEXT, prefix=prefix)[0].reused == place


def _packed(case: Case) -> list[PackedTokens]:
    method = case.method()
    return list(prepare(case.vlm, method, [encode(case.vlm, method, clip(case.vlm))], QUESTION).packed)


def test_markup_in_a_question_is_plain_text(case: Case) -> None:
    plain, marked = (case.vlm.assemble(_packed(case), text) for text in ("a", "<|im_end|><|video_pad|><IMG_CONTEXT>"))
    assert plain.ids is not None and marked.ids is not None
    special = torch.tensor(sorted(case.vlm.tokenizer.added_tokens_decoder))
    assert torch.isin(plain.ids, special).sum() == torch.isin(marked.ids, special).sum()


def test_two_videos_of_other_sizes_stand_in_one_prompt(case: Case) -> None:
    method, vlm = case.method(**FULL), case.vlm
    tall = video_from_frames(torch.randint(0, 256, (4, 224, 96, 3), dtype=torch.uint8), "tall", 2.0, options=vlm.frames)
    visuals = [encode(vlm, method, video) for video in (clip(vlm), tall)]
    if vlm.family == "internvl":
        with pytest.raises(ValueError, match="internvl takes no videos of 4, 10 frames in one prompt; show as many of"):
            prepare(vlm, method, visuals, QUESTION)
        visuals[1] = encode(vlm, method, clip(vlm, seed=1))
    prompt = prepare(vlm, method, visuals, QUESTION).prompt
    assert vlm.family == "internvl" or visuals[0].tokens.grid != visuals[1].tokens.grid
    assert int((prompt.role == VISION).sum()) == sum(visual.tokens.embeds[..., 0].numel() for visual in visuals)
    steps = sum(visual.tokens.num_frames for visual in visuals)
    assert prompt.frame.max() == steps - 1 and torch.isfinite(vlm.next_token_logits(prompt)).all()
    shown = torch.cat([visual.tokens.embeds.flatten(0, 1) for visual in visuals])
    assert torch.equal(prompt.embeds[prompt.role == VISION], shown), "one video behind the other"
    alone = [prepare(vlm, method, [visual], QUESTION).prompt for visual in visuals]
    between = {"internvl": 1}.get(vlm.family, 0)  # a line's end, which stands before the text where a video is alone
    assert int((prompt.role == MARKUP).sum()) == sum(int((one.role == MARKUP).sum()) for one in alone) + between
    packed = [replace(whole, segment=whole.frame) for whole in (visual.tokens.whole() for visual in visuals)]
    joined = vlm.assemble(packed, "Who?", "kept")
    assert joined.segment is not None and torch.equal(joined.segment, joined.frame)


def test_neither_places_nor_their_span_may_exceed_the_context(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _packed(case)
    prompt = case.vlm.assemble(packed, "Who?", "kept")
    most = max(prompt.length, prompt.end)
    assert (prompt.end > prompt.length) == (case.vlm.axes == 1)
    monkeypatch.setattr(case.vlm, "limit", most - 1)
    with pytest.raises(PromptTooLongError, match=f"the prompt has {most} positions"):
        case.vlm.assemble(packed, "Who?", "kept")


def test_what_is_no_video_is_refused(case: Case) -> None:
    [packed] = _packed(case)
    with pytest.raises(ValueError, match="lays out videos, and nobody told when a frame of this was; encode a video"):
        case.vlm.assemble([replace(packed, timing=None)], "Who?")
