"""Which settings of a checkpoint hold for an answer, and where its text ends."""

import pytest
import torch
from transformers import GenerationConfig

from lmms_kvtp.cost.meter import passed
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.vlms.decoding import FirstTokenClock, UntilText, settings, text_of, until_end
from lmms_kvtp.vlms.llava_video import LlavaVideo

QWEN = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.05,
    "eos_token_id": [482, 480],
    "max_length": 77,
    "length_penalty": 0.5,
}
"""As Qwen2-Instruct's generation_config.json, and two settings more."""


def chosen(**options: float | int | None) -> GenerationConfig:
    base = GenerationConfig(**QWEN)
    return settings(base, end=482, pad=480, options=GenerationOptions(**options))


def test_greedy_keeps_the_penalty_and_nothing_of_sampling() -> None:
    config = chosen(max_new_tokens=9)
    assert config.repetition_penalty == 1.05
    assert (config.do_sample, config.max_new_tokens, config.num_beams) == (False, 9, 1)
    changed = config.to_diff_dict()
    assert not {"temperature", "top_p", "top_k", "max_length", "length_penalty"} & set(changed)


def test_sampling_takes_temperature_and_nucleus_from_the_options_and_top_k_from_the_checkpoint() -> None:
    config = chosen(temperature=0.3)
    assert (config.do_sample, config.temperature, config.top_p, config.top_k) == (True, 0.3, 1.0, 20)
    assert chosen(temperature=0.3, top_p=0.6).top_p == 0.6


def test_beams_keep_their_own_settings() -> None:
    config = chosen(num_beams=3)
    assert (config.num_beams, config.length_penalty, config.do_sample) == (3, 0.5, False)


@pytest.mark.parametrize(("ends", "expected"), [([482, 480], [482, 480]), (480, [480, 482]), (None, [482])])
def test_the_end_of_a_turn_is_always_an_end_token(ends: list[int] | int | None, expected: list[int]) -> None:
    config = settings(GenerationConfig(eos_token_id=ends), 482, 480, GenerationOptions())
    assert config.eos_token_id == expected
    assert config.pad_token_id == 480


@pytest.mark.parametrize(("ids", "kept"), [([5, 482, 480, 480], [5, 482]), ([480, 5], [480]), ([5, 6], [5, 6])])
def test_padding_behind_the_end_is_no_part_of_an_answer(ids: list[int], kept: list[int]) -> None:
    assert until_end(torch.tensor(ids), chosen()) == kept


def test_text_ends_before_the_first_stop_and_loses_markers_and_space(vlm: LlavaVideo) -> None:
    ids = vlm.tokenizer(" A. walking\nB<|im_end|>", add_special_tokens=False).input_ids
    assert text_of(vlm.tokenizer, ids, ()) == "A. walking\nB"
    assert text_of(vlm.tokenizer, ids, ("\n", "")) == "A. walking"
    assert text_of(vlm.tokenizer, ids, ("never", "walk", "A.")) == ""


def test_a_stop_is_found_only_while_it_is_near_the_end(vlm: LlavaVideo) -> None:
    rows = [vlm.tokenizer(text, add_special_tokens=False).input_ids for text in ("xx stop", "xx step")]
    length = min(map(len, rows))
    criterion = UntilText(vlm.tokenizer, ["stop"])
    found = criterion(torch.tensor([row[:length] for row in rows]), None)
    assert found.tolist() == [vlm.tokenizer.decode(rows[0][:length]).endswith("stop"), False]
    assert criterion(torch.tensor([rows[0]]), None).tolist() == [True]
    assert criterion(torch.tensor([rows[0] + [0] * 60]), None).tolist() == [False]


def test_the_time_of_the_first_token_stays() -> None:
    first = FirstTokenClock(torch.device("cpu"))
    assert first(torch.zeros(2, 1), None).tolist() == [False, False]
    seen = first.first
    assert seen is not None and passed(first.start, seen) > 0
    first(torch.zeros(2, 2), None)
    assert first.first is seen
