"""The training pass over videos and questions, against transformers' own forward."""

import pytest
import torch
from torch import Tensor

from benchmarks.embedded_model.language import IGNORE, IM_END, PREFIX, SUFFIX, answer_logits, language_tokenizer, pack
from benchmarks.embedded_model.student import Geometry, Student

GEOMETRY = Geometry(vision_width=20, llm_width=48, llm_layers=3, llm_heads=6, llm_kv_heads=2, llm_mlp=40)
ASKED = [
    ("What color is the star?\nA. red", "A"),
    ("Which place?", "B"),
    ("Is it?\nA. no\nB. yes\nC. red", "C"),
    ("Red?", "D"),
]
TOKENIZER = language_tokenizer([PREFIX, SUFFIX, *(prompt for prompt, _ in ASKED), "ABCD"])


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    return Student(GEOMETRY, TOKENIZER).eval().requires_grad_(False)


def video(student: Student, seed: int, length: int = 7) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return student.with_prefix(torch.randn(1, length, GEOMETRY.llm_width, generator=rng))


@pytest.mark.parametrize("per_row", [1, 2, 4])
def test_each_question_is_answered_as_if_it_stood_alone_behind_its_video(student: Student, per_row: int) -> None:
    videos = torch.cat([video(student, 1), video(student, 2)])
    logits, targets = answer_logits(student.llm, videos, pack(TOKENIZER, [ASKED, ASKED[::-1]], per_row))
    row = 0
    for shown, asked in zip(videos, (ASKED, ASKED[::-1]), strict=True):
        for prompt, letter in asked:
            ids = torch.tensor([TOKENIZER(f"\n{prompt}{SUFFIX}{letter}{IM_END}")["input_ids"]])
            embeds = torch.cat([shown[None], student.llm.model.embed_tokens(ids)], dim=1)
            expected = student.llm(inputs_embeds=embeds).logits[0, -3:-1]
            torch.testing.assert_close(logits[row : row + 2], expected, atol=1e-4, rtol=1e-4)
            assert targets[row : row + 2].tolist() == ids[0, -2:].tolist()
            row += 2
    assert row == len(logits)


def test_only_the_letter_and_the_end_are_targets() -> None:
    text = pack(TOKENIZER, [ASKED], 2)
    for row in range(2):
        said = TOKENIZER.decode(text.targets[row][text.targets[row] != IGNORE])
        assert said == "".join(f"{letter}{IM_END}" for _, letter in ASKED[2 * row : 2 * row + 2])


def test_some_heads_start_out_by_preferring_their_own_content(student: Student) -> None:
    attention = student.llm.model.layers[1].self_attn
    query, key = attention.q_proj.weight.view(2, 3, 8, 48), attention.k_proj.weight.view(2, 8, 48)
    torch.testing.assert_close(key, 1.2 * query[:, 0])
    assert not torch.allclose(key, 1.2 * query[:, 1])


def test_a_newline_ends_each_row_of_each_frame(student: Student) -> None:
    rows = torch.randn(2, 3, 2, 4, GEOMETRY.llm_width)
    laid = student.with_newlines(rows).view(2, 3, 2, 5, GEOMETRY.llm_width)
    assert torch.equal(laid[..., :4, :], rows)
    assert torch.equal(laid[..., 4, :], student.newline.expand(2, 3, 2, -1))


def test_pooling_follows_the_projector_and_takes_the_mean_of_each_block(student: Student) -> None:
    features = torch.randn(1, 5, 6, 6, GEOMETRY.vision_width)
    flat = student.projector(features[0]).permute(0, 3, 1, 2)
    expected = torch.nn.functional.avg_pool2d(flat, 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(student.project(features)[0], expected)
