"""PruMerge and ToMe against loops over frames and tokens."""

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.small_tokens import BUDGETS, video

from lmms_kvtp.pruners.pool import Pool
from lmms_kvtp.pruners.prumerge import PruMerge
from lmms_kvtp.pruners.simplecluster import SimpleCluster
from lmms_kvtp.pruners.tome import ToMe
from lmms_kvtp.types import FrameFeatures, FrameTokens

LOOPS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "loops.py"))


@pytest.mark.parametrize("neighbours", [0, 4, 14, 32])
def test_prumerge_is_the_loop_over_frames_and_tokens(neighbours):
    tokens, features = video()
    packed = PruMerge(neighbours=neighbours).prune(tokens, features, torch.tensor(BUDGETS))
    rows, *kept = LOOPS["prumerge"](tokens.embeds, features.probe_attention, features.keys, BUDGETS, neighbours)
    assert torch.equal(packed.patch, torch.cat(kept))
    torch.testing.assert_close(packed.embeds, rows, rtol=1e-4, atol=1e-5)


def test_tome_release_is_the_loop_over_frames_and_tokens():
    tokens, features = video()
    packed = ToMe(variant="release").prune(tokens, features, torch.tensor(BUDGETS))
    rows, *kept = LOOPS["tome_release"](tokens.embeds, features.keys, BUDGETS)
    assert torch.equal(packed.patch, torch.cat(kept))
    torch.testing.assert_close(packed.embeds, rows, rtol=1e-4, atol=1e-5)


def test_tome_weights_by_size_as_the_loop_over_frames_and_tokens():
    tokens, features = video()
    packed = ToMe().prune(tokens, features, torch.tensor(BUDGETS))
    rows, *kept = LOOPS["tome_paper"](tokens.embeds, features.keys, BUDGETS)
    assert torch.equal(torch.stack([packed.patch, packed.size.long()], dim=1), torch.cat(kept))
    torch.testing.assert_close(packed.embeds, rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pruner", [ToMe(), Pool(), SimpleCluster()], ids=["tome", "pool", "simplecluster"])
def test_every_merge_is_the_mean_of_the_tokens_that_it_owns(pruner):
    tokens, features = video()
    packed = pruner.prune(tokens, features, torch.tensor(BUDGETS))
    for number, row in enumerate(packed.embeds):
        members = tokens.embeds[packed.owner == number]
        torch.testing.assert_close(row, members.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_a_token_in_several_sums_of_prumerge_is_owned_by_the_closest():
    tokens, features = video()
    columns = tokens.grid[1]
    packed = PruMerge(neighbours=4).prune(tokens, features, torch.tensor(BUDGETS))
    unit = F.normalize(features.keys, dim=2)
    for frame, owners in enumerate(packed.owner.tolist()):
        numbers = torch.nonzero(packed.frame == frame).flatten().tolist()
        near = {}
        for number in numbers:
            cosines = unit[frame] @ unit[frame, packed.patch[number]]
            cosines[packed.patch[number]] = -2
            near[number] = cosines.topk(4).indices.tolist()
        for patch, owner in enumerate(owners):
            holders = [number for number in numbers if patch in near[number]]
            here = complex(*divmod(patch, columns))
            apart = {each: abs(here - complex(*divmod(int(packed.patch[each]), columns))) for each in holders}
            if patch in packed.patch[numbers].tolist():
                assert owner in numbers and packed.patch[owner] == patch
            else:
                assert owner == (min(holders, key=apart.__getitem__) if holders else -1)


@pytest.mark.parametrize("pruner", [PruMerge(), ToMe(), ToMe(variant="release")], ids=["prumerge", "paper", "release"])
def test_similarities_of_half_precision_are_measured_in_float32(pruner):
    tokens, features = video()
    half = FrameFeatures(
        times=features.times,
        probe_attention=features.probe_attention.bfloat16(),
        keys=features.keys.bfloat16(),
    )
    full = FrameFeatures(times=half.times, probe_attention=half.probe_attention.float(), keys=half.keys.float())
    coarse = FrameTokens(tokens.embeds.bfloat16(), tokens.grid)
    fine = FrameTokens(coarse.embeds.float(), tokens.grid)
    low = pruner.prune(coarse, half, torch.tensor(BUDGETS))
    high = pruner.prune(fine, full, torch.tensor(BUDGETS))
    assert torch.equal(low.patch, high.patch)
    assert torch.equal(low.embeds, high.embeds.bfloat16())


def test_prumerge_refuses_a_negative_number_of_neighbours():
    with pytest.raises(ValueError, match="neighbours=-1 must be >= 0"):
        PruMerge(neighbours=-1)


def test_features_of_another_grid_are_refused_with_both_sizes():
    tokens, features = video()
    other = FrameTokens(tokens.embeds[:, :12], (3, 4))
    with pytest.raises(ValueError, match=r"keys is of 19 x 15 frames x patches, the tokens of 19 x 12"):
        ToMe().prune(other, features, torch.tensor([3] * 19))


def test_keys_that_are_no_numbers_are_refused_with_their_frame_in_the_video():
    tokens, features = video()
    features.keys[17, 3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"keys of frames \[17\] hold NaN"):
        PruMerge().prune(tokens, features, torch.tensor(BUDGETS))
