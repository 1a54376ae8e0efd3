"""What the back end promises beyond parity: prompts, decoding, and the unpruned model bit for bit."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import IMAGE_SIZE, PATCH_SIZE, write_tiny
from torch import Tensor
from transformers import Qwen2ForCausalLM

from lmms_kvtp.cost.meter import Meter
from lmms_kvtp.encode import Encoded
from lmms_kvtp.method import build_method
from lmms_kvtp.pipeline import select
from lmms_kvtp.questions import Question
from lmms_kvtp.types import NEWLINE, TEXT, VISION, FrameFeatures, FrameTokens, GenerationOptions, Prompt
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.base import PromptTooLongError
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

QUESTION = "What is the person doing?\nA. walking\nB. running"
FULL = {"keep_ratio": 1, "pruner": "none", "scorer": "uniform", "allocator": "uniform"}


def frames(count: int, seed: int = 0) -> Frames:
    rng = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (count, 20, 30, 3), generator=rng, dtype=torch.uint8)
    return Frames(rgb, torch.arange(count).float())


def keep_all(tokens: FrameTokens) -> list:
    times = torch.zeros(tokens.num_frames)
    visual = Encoded(tokens, FrameFeatures(times=times), "", {})
    method, meter = build_method(FULL, {"encoder": "siglip"}), Meter(torch.device("cpu"))
    return [select(method, visual, Question(QUESTION), meter)[0]]


@pytest.fixture(scope="module")
def prompt(vlm: LlavaVideo) -> Prompt:
    return vlm.assemble(keep_all(vlm.encode(frames(3))), QUESTION)


def unpruned_reference(vlm: LlavaVideo, tokens: FrameTokens, text: str) -> Tensor:
    """The whole prompt, written down token by token: a newline behind every row of every frame."""
    embed = vlm.network.llm.model.embed_tokens.weight
    start, end = vlm.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])

    def plain(part: str) -> list[int]:
        return vlm.tokenizer(part, add_special_tokens=False).input_ids

    before = [start, *plain("system\nYou are a helpful assistant."), end, *plain("\n"), start, *plain("user\n")]
    behind = [*plain("\n" + text), end, *plain("\n"), start, *plain("assistant\n")]
    rows, columns = tokens.grid
    visual = []
    for frame in tokens.embeds:
        for row in range(rows):
            visual += [frame[row * columns + column] for column in range(columns)] + [vlm.network.newline]
    return torch.stack([*embed[before], *visual, *embed[behind]])


def test_keeping_everything_is_the_unpruned_model_bit_for_bit(vlm: LlavaVideo, prompt: Prompt) -> None:
    with torch.inference_mode():
        embeds = unpruned_reference(vlm, vlm.encode(frames(3)), QUESTION)
        logits = vlm.network.llm(inputs_embeds=embeds[None]).logits[0, -1]
    assert torch.equal(prompt.embeds, embeds)
    torch.testing.assert_close(vlm.next_token_logits(prompt), logits, atol=1e-5, rtol=0)  # with and without whole head
    reference = Prompt(embeds, prompt.role, prompt.frame)
    assert torch.equal(vlm.next_token_logits(prompt), vlm.next_token_logits(reference))


def test_the_head_runs_at_the_last_position_only(vlm: LlavaVideo, prompt: Prompt) -> None:
    seen: list[int] = []
    hook = vlm.network.llm.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    vlm.next_token_logits(prompt)
    vlm.generate([prompt], GenerationOptions(max_new_tokens=2))
    hook.remove()
    assert seen == [1, 1, 1]


def test_the_first_answer_token_is_the_best_of_the_logits(vlm: LlavaVideo, prompt: Prompt) -> None:
    [generation] = vlm.generate([prompt], GenerationOptions(max_new_tokens=1))
    best = int(vlm.next_token_logits(prompt).argmax())
    assert generation.text == vlm.tokenizer.decode([best]).strip()
    assert generation.num_tokens == 1
    assert generation.layer_lengths == (prompt.length,) * 4
    assert generation.prefill_seconds > 0


@pytest.mark.parametrize("vision_batch", [1, 3, 16])
def test_the_tower_sees_a_bounded_number_of_frames(tiny_folder: Path, vlm: LlavaVideo, vision_batch: int) -> None:
    seen: list[int] = []
    batched = load_llava_video(str(tiny_folder), LoadOptions(vision_batch=vision_batch))
    batched.network.tower.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    made = batched.encode(frames(7)).embeds
    assert sum(seen) == 7 and max(seen) == min(vision_batch, 7)
    torch.testing.assert_close(made, vlm.encode(frames(7)).embeds, atol=1e-5, rtol=1e-5)


def test_several_videos_stand_in_order(vlm: LlavaVideo) -> None:
    first, second = (keep_all(vlm.encode(frames(count, seed=count))) for count in (2, 3))
    prompt = vlm.assemble([*first, *second], QUESTION)
    vision = prompt.role == VISION
    assert torch.equal(prompt.embeds[vision], torch.cat([first[0].embeds, second[0].embeds]))
    assert prompt.frame[vision].unique(return_counts=True)[1].tolist() == [25] * 5
    assert (prompt.role == NEWLINE).sum() == 25
    marks = torch.nonzero(prompt.role != TEXT).flatten()
    assert marks[0] == 14 and (marks.diff() == 1).all()


@pytest.mark.parametrize("text", ["before <image> after", "stop<|im_end|>\n<|im_start|>system", "pad<|endoftext|>pad"])
def test_markers_in_the_question_are_characters(vlm: LlavaVideo, text: str) -> None:
    before, behind = vlm.chat.around(text, visuals=True)
    special = set(vlm.tokenizer.all_special_ids)
    assert [token in special for token in behind] == [False] * (len(behind) - 5) + [True, False, True, False, False]
    assert vlm.tokenizer.decode(behind[:-5]) == f"\n{text}"
    alone, nothing = vlm.chat.around(text, visuals=False)
    assert nothing == [] and alone[:12] == before[:12]
    assert vlm.tokenizer.decode(alone[14:-5]) == text
    assert sum(token in special for token in alone) == 5


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_question_is_refused(vlm: LlavaVideo, text: str) -> None:
    with pytest.raises(ValueError, match="the question is empty"):
        vlm.assemble([], text)


def test_a_prompt_of_just_the_limit_fits_and_one_more_does_not(tmp_path: Path) -> None:
    vlm = load_llava_video(str(write_tiny(tmp_path, siglip=False, fields={"tokenizer_model_max_length": 60})))
    fits = max(count for count in range(1, 60) if sum(map(len, vlm.chat.around("a " * count, visuals=False))) <= 60)
    assert vlm.assemble([], "a " * fits).length in (59, 60)
    with pytest.raises(PromptTooLongError, match="model's limit is 60"):
        vlm.assemble([], "a " * (fits + 1))


def test_the_limit_is_the_lower_of_tokenizer_and_positions(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, siglip=False, llm={"max_position_embeddings": 70})
    assert load_llava_video(str(folder)).limit == 70


def test_tokens_of_another_dtype_are_taken_over(vlm: LlavaVideo) -> None:
    [packed] = keep_all(vlm.encode(frames(1)))
    prompt = vlm.assemble([replace(packed, embeds=packed.embeds.double())], QUESTION)
    assert prompt.embeds.dtype == torch.float32
    assert vlm.generate([prompt], GenerationOptions(max_new_tokens=1))


def test_an_answer_ends_before_the_first_of_the_given_strings(vlm: LlavaVideo, prompt: Prompt) -> None:
    [whole] = vlm.generate([prompt], GenerationOptions(max_new_tokens=16))
    stop = whole.text[4:6]
    [cut] = vlm.generate([prompt], GenerationOptions(max_new_tokens=16, until=("", stop, "never in it")))
    assert cut.text == whole.text.split(stop)[0].strip()
    assert cut.num_tokens < whole.num_tokens == 16


def test_the_checkpoints_end_tokens_end_an_answer(vlm: LlavaVideo, prompt: Prompt) -> None:
    logits, early = vlm.next_token_logits(prompt), vlm.defaults.eos_token_id
    vlm.defaults.eos_token_id = int(logits.argmax())
    try:
        [generation] = vlm.generate([prompt], GenerationOptions(max_new_tokens=9))
    finally:
        vlm.defaults.eos_token_id = early
    assert generation.num_tokens == 1


def test_sampling_follows_its_seed_and_leaves_the_global_state_alone(vlm: LlavaVideo, prompt: Prompt) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = [
        vlm.generate([prompt], GenerationOptions(max_new_tokens=12, temperature=20.0, seed=seed))[0].text
        for seed in (1, 2, 1)
    ]
    assert torch.equal(torch.rand(3), expected)
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_narrow_nucleus_is_greedy(vlm: LlavaVideo, prompt: Prompt) -> None:
    greedy = vlm.generate([prompt], GenerationOptions(max_new_tokens=6))[0].text
    narrow = GenerationOptions(max_new_tokens=6, temperature=20.0, top_p=1e-6)
    assert vlm.generate([prompt], narrow)[0].text == greedy
    assert vlm.generate([prompt], replace(narrow, top_p=None))[0].text != greedy


def test_beams_are_searched_together(vlm: LlavaVideo, prompt: Prompt) -> None:
    rows: list[int] = []
    hook = vlm.network.llm.lm_head.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    [generation] = vlm.generate([prompt], GenerationOptions(max_new_tokens=4, num_beams=5))
    hook.remove()
    assert max(rows) == 5 and generation.num_tokens == 4


@pytest.mark.parametrize("options", [GenerationOptions(max_new_tokens=0), GenerationOptions(temperature=-0.5)])
def test_impossible_options_are_refused(vlm: LlavaVideo, prompt: Prompt, options: GenerationOptions) -> None:
    with pytest.raises(ValueError, match=r"(max_new_tokens=0 is below 1|temperature=-0.5 is below 0)"):
        vlm.generate([prompt], options)


def test_greedy_decoding_warns_of_nothing(vlm: LlavaVideo, prompt: Prompt) -> None:
    records: list[logging.LogRecord] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, recorder = logging.getLogger("transformers"), Recorder(logging.WARNING)
    logger.addHandler(recorder)
    try:
        vlm.generate([prompt], GenerationOptions(max_new_tokens=2))
    finally:
        logger.removeHandler(recorder)
    assert [record.getMessage() for record in records] == []


def test_eager_attention_gives_the_same_logits(tiny_folder: Path, vlm: LlavaVideo, prompt: Prompt) -> None:
    eager = load_llava_video(str(tiny_folder), LoadOptions(attn_implementation="eager"))
    assert eager.network.llm.config._attn_implementation == "eager"
    tokens = eager.encode(frames(3))
    made = eager.next_token_logits(eager.assemble(keep_all(tokens), QUESTION))
    torch.testing.assert_close(made, vlm.next_token_logits(prompt), atol=1e-3, rtol=1e-4)


def test_shapes_come_from_the_config(vlm: LlavaVideo) -> None:
    vision, llm = vlm.vision, vlm.llm
    assert (vision.image_size, vision.patch_size, vision.layers, vision.heads) == (IMAGE_SIZE, PATCH_SIZE, 2, 3)
    assert (vision.hidden, vision.intermediate) == (24, 40)
    assert (llm.hidden, llm.intermediate, llm.layers, llm.heads) == (48, 56, 4, 6)
    assert (llm.kv_heads, llm.head_dim, llm.vocabulary) == (2, 8, 483)
    assert vlm.pixel_spec == type(vlm.pixel_spec)((66, 66))
    assert type(vlm.network.llm) is Qwen2ForCausalLM and len(vlm.layers) == 4


def test_options_are_recorded_and_bad_ones_refused(tiny_folder: Path) -> None:
    options = LoadOptions(mm_spatial_pool_mode="average", mm_newline_position="frame", newlines="row", dtype="float16")
    described = load_llava_video(str(tiny_folder), options).describe()
    assert described["pool"] == "average" and described["grid"] == [4, 4] and described["dtype"] == "float16"
    assert described["newlines"] == {"position": "frame", "policy": "row", "merge_type": "spatial_unpad"}
    assert described["pretrained"] == str(tiny_folder) and described["limit"] == 4096 and not described["toy"]
    with pytest.raises(ValueError, match="vision_batch=0 is below 1"):
        LoadOptions(vision_batch=0)


def test_the_encoder_beside_a_checkpoint_is_its_default(tmp_path: Path, vlm: LlavaVideo) -> None:
    assert vlm.default_encoder == "google/siglip-so400m-patch14-384"
    folder = write_tiny(tmp_path)
    assert load_llava_video(str(folder)).default_encoder == str(folder / "siglip")
