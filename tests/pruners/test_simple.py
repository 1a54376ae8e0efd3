"""The controls: whole frames, random tokens, lattices."""

import pytest
import torch

from lmms_kvtp.pruners.grid import Grid
from lmms_kvtp.pruners.none import Unpruned
from lmms_kvtp.pruners.parts.packing import chunks, land, pack
from lmms_kvtp.pruners.parts.spread import blocks, lattice
from lmms_kvtp.pruners.pool import Pool
from lmms_kvtp.pruners.random import RandomTokens
from lmms_kvtp.types import FrameFeatures, FrameTokens


def video(frames: int = 4, grid: tuple[int, int] = (3, 4), key: str = "k") -> tuple[FrameTokens, FrameFeatures]:
    embeds = torch.arange(frames * grid[0] * grid[1] * 2.0).reshape(frames, -1, 2)
    return FrameTokens(embeds, grid, key), FrameFeatures(times=torch.zeros(frames))


def kept(seed: int = 0, key: str = "k", frames: int = 4) -> list[list[int]]:
    packed = RandomTokens(seed).prune(*video(frames, key=key), torch.full((frames,), 5))
    return packed.patch.reshape(frames, 5).tolist()


@pytest.mark.parametrize(
    ("shape", "starts"),
    [((9, 20), [0, 3, 6]), ((3, 61, 2), [0, 1, 2]), ((61, 1), [0, 60]), ((2, 0), [0]), ((0, 4), [])],
)
def test_frames_are_worked_on_together_up_to_a_number_of_tokens(shape, starts):
    parts = list(chunks(torch.zeros(shape)))  # 60 tokens, see conftest.py
    assert [part.start for part in parts] == starts
    assert [frame for part in parts for frame in range(part.start, part.stop)] == list(range(shape[0]))


def test_none_keeps_whole_frames_and_names_the_way_out_of_a_partial_one():
    packed = Unpruned().prune(*video(), torch.tensor([12, 0, 12, 0]))
    assert packed.counts().tolist() == [12, 0, 12, 0]
    message = r"budget of frame 1 is 5 of 12 tokens; choose a pruner, such as grid or prumerge, or keep_ratio=1"
    with pytest.raises(ValueError, match=message):
        Unpruned().prune(*video(), torch.tensor([12, 5, 12, 1]))


def test_random_draws_differ_by_seed_video_and_frame():
    assert len({str(draw) for draw in (kept(), kept(seed=1), kept(key="other"))}) == 3
    assert len({str(frame) for frame in kept()}) == 4


def test_random_draws_of_a_frame_do_not_depend_on_the_frames_after_it():
    assert kept(frames=9)[:4] == kept(frames=4)


def test_random_draws_are_those_of_any_other_process_and_machine():
    assert kept()[0] == [0, 5, 8, 9, 11]


def test_random_keeps_every_patch_equally_often():
    tokens, features = video(frames=2000)
    packed = RandomTokens().prune(tokens, features, torch.full((2000,), 3))
    shares = torch.bincount(packed.patch, minlength=12) / 2000
    torch.testing.assert_close(shares, torch.full((12,), 0.25), rtol=0, atol=0.05)


def test_grid_keeps_a_lattice_with_the_proportions_of_the_frame():
    rows = lattice(8, 4, 8).reshape(4, 8).int().tolist()
    assert rows == [[0] * 8, [0, 1, 0, 1, 0, 1, 0, 1], [0] * 8, [0, 1, 0, 1, 0, 1, 0, 1]]
    assert lattice(6, 6, 4).reshape(6, 4).nonzero().tolist() == [[1, 1], [1, 3], [3, 1], [3, 3], [5, 1], [5, 3]]


@pytest.mark.parametrize("grid", [(13, 13), (14, 14), (3, 11), (11, 3), (2, 10), (5, 1)])
def test_grid_has_a_lattice_for_every_budget(grid):
    for budget in range(grid[0] * grid[1] + 1):
        assert lattice(budget, *grid).sum() == budget
        middles = blocks(budget, *grid)
        assert torch.equal(middles[middles], middles) and len(set(middles.tolist())) == max(budget, 1)


def test_grid_leaves_tokens_as_they_were():
    tokens, features = video(grid=(4, 8))
    packed = Grid().prune(tokens, features, torch.tensor([8, 0, 3, 32]))
    assert torch.equal(packed.embeds, tokens.embeds[packed.frame, packed.patch])


def test_pool_is_average_pooling_where_the_budget_divides_the_grid():
    tokens, features = video(frames=3, grid=(4, 6))
    packed = Pool().prune(tokens, features, torch.tensor([6, 24, 0]))
    maps = tokens.embeds[0].reshape(4, 6, 2).permute(2, 0, 1)
    pooled = torch.nn.functional.avg_pool2d(maps, 2).flatten(1).T
    torch.testing.assert_close(packed.embeds[:6], pooled)
    assert packed.size[:6].tolist() == [4.0] * 6
    assert torch.equal(packed.embeds[6:], tokens.embeds[1])


def test_pool_takes_uneven_budgets_in_rows_that_differ_by_one_block():
    assert blocks(5, 4, 4).reshape(4, 4).tolist() == [[5, 5, 7, 7], [5, 5, 7, 7], [12, 14, 14, 15], [12, 14, 14, 15]]


def test_a_pruner_that_marks_fewer_tokens_than_it_tells_is_refused():
    tokens = FrameTokens(torch.arange(24.0).reshape(2, 6, 2), (2, 3))
    keep = torch.zeros(2, 6, dtype=torch.bool)
    keep[1, 2] = True
    assert land(pack(tokens, tokens.embeds, keep, 1)).patch.tolist() == [2]
    with pytest.raises(ValueError, match="told `pack` to keep 3 tokens, and has marked 1"):
        land(pack(tokens, tokens.embeds, keep, 3))
