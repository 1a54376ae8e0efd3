"""Newlines: the reference's sequences, the policies for pruned frames, and positions that add up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmms_kvtp.types import NEWLINE, TEXT, VISION, PackedTokens
from lmms_kvtp.vlms.layout import POSITIONS, Newlines, join, lay_out, text_run

GOLDENS = Path(__file__).parents[1] / "goldens"
ROWS, COLUMNS, DIM = 3, 4, 2


def packed(kept: list[list[int]], first: int = 0) -> PackedTokens:
    """Tokens whose embedding is (frame, patch); `kept` lists the patches of each frame."""
    frame = torch.tensor([t + first for t, patches in enumerate(kept) for _ in patches], dtype=torch.long)
    patch = torch.tensor([p for patches in kept for p in patches], dtype=torch.long)
    embeds = torch.stack([frame, patch], dim=1).float()
    return PackedTokens(embeds, frame, patch, torch.ones(len(frame)), (ROWS, COLUMNS), first + len(kept))


def drawn(tokens: PackedTokens, newlines: Newlines) -> str:
    """The sequence as text: patch letters, `/` for a newline."""
    run = lay_out(tokens, torch.tensor([-1.0, -1.0]), newlines)
    newline = (run.embeds == -1).all(dim=1)
    assert torch.equal(newline, run.role == NEWLINE)
    return "".join("/" if n else "abcdefghijkl"[int(p)] for n, p in zip(newline, run.embeds[:, 1], strict=True))


WHOLE = list(range(ROWS * COLUMNS))
CASES = {
    ("grid", "auto"): "abcd/efgh/ijkl/" "bgh/" "l/",
    ("grid", "row"): "abcd/efgh/ijkl/" "b/gh/" "l/",
    ("grid", "frame"): "abcdefghijkl/" "bgh/" "l/",
    ("grid", "none"): "abcdefghijkl" "bgh" "l",
    ("grid", "release"): "abcd/efgh/ijkl/" "b/gh" "l",
    ("frame", "auto"): "abcdefghijkl/" "bgh/" "l/",
    ("frame", "row"): "abcd/efgh/ijkl/" "b/gh/" "l/",
    ("one_token", "auto"): "abcdefghijkl" "bgh" "l/",
    ("one_token", "none"): "abcdefghijkl" "bgh" "l",
    ("no_token", "auto"): "abcdefghijkl" "bgh" "l",
    ("no_token", "frame"): "abcdefghijkl/" "bgh/" "l/",
}  # fmt: skip


@pytest.mark.parametrize(("position", "policy"), CASES)
def test_policies_on_a_whole_a_pruned_and_an_empty_frame(position: str, policy: str) -> None:
    assert drawn(packed([WHOLE, [1, 6, 7], [], [11]]), Newlines(position, policy)) == CASES[position, policy]


def test_one_missing_token_makes_a_frame_a_pruned_one() -> None:
    assert drawn(packed([WHOLE[:-1], WHOLE]), Newlines()) == "abcdefghijk/abcd/efgh/ijkl/"


def test_rows_of_one_column_that_continue_in_the_next_frame_still_end() -> None:
    assert drawn(packed([[11], [11]]), Newlines(policy="row")) == "l/l/"
    assert drawn(packed([[8], [0]]), Newlines(policy="frame")) == "i/a/"


@pytest.mark.parametrize(
    ("merge_type", "position", "sequence"),
    [
        ("flat", "grid", "abl"),
        ("spatial", "one_token", "abl"),
        ("spatial", "frame", "abl/"),
        ("spatial_unpad", "one_token", "abl/"),
    ],
)
def test_the_merge_type_decides_whether_there_are_newlines(merge_type: str, position: str, sequence: str) -> None:
    assert drawn(packed([[0, 1, 11]]), Newlines(position, merge_type=merge_type)) == sequence


@pytest.mark.parametrize("position", POSITIONS)
def test_a_video_without_tokens_leaves_nothing(position: str) -> None:
    assert drawn(packed([[], []]), Newlines(position)) == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"position": "gird"}, "unknown newline position 'gird'; did you mean grid"),
        ({"policy": "column"}, "unknown newline policy 'column'.*available: auto, row, frame, none"),
        ({"merge_type": "anyres"}, "unknown newline merge_type 'anyres'.*flat, spatial, spatial_unpad"),
    ],
)
def test_unknown_names_are_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Newlines(**wrong)


@given(st.lists(st.sets(st.integers(0, ROWS * COLUMNS - 1)), min_size=1, max_size=5), st.sampled_from(POSITIONS))
def test_tokens_keep_their_order_and_newlines_belong_to_the_frame_before(kept: list[set[int]], position: str) -> None:
    tokens = packed([sorted(patches) for patches in kept])
    run = lay_out(tokens, torch.tensor([-1.0, -1.0]), Newlines(position, "row"), first_frame=7)
    vision = run.role == VISION
    assert torch.equal(run.embeds[vision], tokens.embeds)
    assert torch.equal(run.frame[vision], tokens.frame + 7)
    ends = torch.nonzero(run.role == NEWLINE).flatten()
    assert torch.equal(run.frame[ends], run.frame[ends - 1])
    assert len(ends) == sum(len({p // COLUMNS for p in patches}) for patches in kept)


def test_runs_join_in_order() -> None:
    text = text_run(torch.full((2, DIM), 9.0))
    newlines, newline = Newlines("frame"), torch.tensor([-1.0, -1.0])
    first, second = (lay_out(packed([[0, 5]]), newline, newlines, first_frame=start) for start in (0, 1))
    prompt = join([text, first, second, text])
    assert prompt.role.tolist() == [TEXT] * 2 + [VISION, VISION, NEWLINE] * 2 + [TEXT] * 2
    assert prompt.frame.tolist() == [-1, -1, 0, 0, 0, 1, 1, 1, -1, -1]
    assert prompt.embeds[:, 1].tolist() == [9, 9, 0, 5, -1, 0, 5, -1, 9, 9]


def test_segments_stand_at_their_tokens_and_nowhere_else() -> None:
    newline, newlines, text = torch.tensor([-1.0, -1.0]), Newlines("frame"), text_run(torch.zeros(1, DIM))
    grouped = replace(packed([[0, 5], [7]]), segment=torch.tensor([1, 0, 1]))
    prompt = join([text, lay_out(grouped, newline, newlines, first_segment=4), text])
    assert prompt.segment is not None
    assert prompt.segment.tolist() == [-1, 5, 4, -1, 5, -1, -1]
    assert join([text, lay_out(packed([[0, 5], [7]]), newline, newlines)]).segment is None


def test_embeddings_keep_their_dtype() -> None:
    half = packed([[0, 5]])
    assert (
        lay_out(replace(half, embeds=half.embeds.bfloat16()), torch.ones(DIM), Newlines()).embeds.dtype
        == torch.bfloat16
    )


def _released(frames: Tensor, kept: list[Tensor]) -> PackedTokens:
    frame = torch.cat([torch.full((len(k),), t) for t, k in enumerate(kept)])
    patch = torch.cat(kept)
    return PackedTokens(frames[frame, patch], frame, patch, torch.ones(len(frame)), (13, 13), len(kept))


def test_unpruned_grid_of_the_kvtp_release() -> None:
    golden = np.load(GOLDENS / "kvtp_pruners.npz")
    frames, newline = torch.from_numpy(golden["features"]), torch.from_numpy(golden["newline"])
    run = lay_out(_released(frames, [torch.arange(169)] * len(frames)), newline, Newlines())
    assert torch.equal(run.embeds, torch.from_numpy(golden["grid/sequence_unpruned"]))


@pytest.mark.parametrize("name", ["rates", "norates"])
def test_random_sequence_of_the_kvtp_release_but_for_its_empty_frames(name: str) -> None:
    """The release leaves one newline for an empty frame, which we drop."""
    golden = np.load(GOLDENS / "kvtp_pruners.npz")
    draws = "random/permutations" if name == "rates" else "random/permutations_norates"
    rates = json.loads((GOLDENS / "kvtp_pruners.json").read_text())["rates_prumerge"] if name == "rates" else [0.1] * 5
    frames, newline = torch.from_numpy(golden["features"]), torch.from_numpy(golden["newline"])
    permutations = torch.from_numpy(golden[draws])
    kept = [p[: min(int(169 * r), 169)].sort().values for p, r in zip(permutations, rates, strict=True)]
    expected = torch.from_numpy(golden[f"random/sequence_{name}"])
    run = lay_out(_released(frames, kept), newline, Newlines(policy="row"))
    empty = sum(len(k) == 0 for k in kept)
    assert len(expected) - len(run.embeds) == empty
    newline_after_newline = (expected[1:] == newline).all(1) & (expected[:-1] == newline).all(1)
    assert torch.equal(run.embeds, torch.cat([expected[:1], expected[1:][~newline_after_newline]]))
