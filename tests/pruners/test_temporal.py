"""Pruners over time against loops over frames and patches."""

import pytest
import torch
import torch.nn.functional as F

from lmms_kvtp.pruners.dycoke import DyCoke
from lmms_kvtp.pruners.evs import EfficientVideoSampling
from lmms_kvtp.types import FrameFeatures, FrameTokens


def video(frames: int) -> tuple[FrameTokens, FrameFeatures]:
    embeds = torch.randn(frames, 15, 8, generator=torch.Generator().manual_seed(frames))
    return FrameTokens(embeds, (3, 5)), FrameFeatures(times=torch.zeros(frames))


def difference(tokens: FrameTokens, frame: int, before: int, patch: int) -> float:
    return 1 - float(F.cosine_similarity(tokens.embeds[frame, patch], tokens.embeds[before, patch], dim=0))


@pytest.mark.parametrize("total", [0, 9, 15, 40, 300])
def test_evs_keeps_the_first_frame_and_what_changed_most_anywhere(total):
    tokens, features = video(20)
    budgets = torch.full((20,), total // 20) + (torch.arange(20) < total % 20)
    packed = EfficientVideoSampling().prune(tokens, features, budgets)
    changes = {(t, p): difference(tokens, t, t - 1, p) for t in range(1, 20) for p in range(15)}
    ranked = [(0, p) for p in range(15)] + sorted(changes, key=lambda cell: -changes[cell])
    assert list(zip(packed.frame.tolist(), packed.patch.tolist(), strict=True)) == sorted(ranked[:total])
    assert torch.equal(packed.embeds, tokens.embeds[packed.frame, packed.patch])


def test_dycoke_keeps_whole_frames_and_what_changed_by_its_pattern():
    tokens, features = video(7)
    packed = DyCoke().prune(tokens, features, torch.tensor([8, 8, 8, 8, 8, 8, 7]))  # 2 whole frames, 25 tokens of 5
    assert packed.counts().tolist() == [15, 5, 5, 5, 15, 5, 5]
    for frame, before in [(1, 0), (2, 0), (3, 2), (5, 4), (6, 4)]:
        ranked = sorted(range(15), key=lambda patch: -difference(tokens, frame, before, patch))
        assert packed.patch[packed.frame == frame].tolist() == sorted(ranked[:5])


def test_dycoke_shares_by_budget_what_whole_frames_leave():
    tokens, features = video(8)
    packed = DyCoke().prune(tokens, features, torch.tensor([9, 1, 2, 1, 9, 10, 8, 8]))
    assert packed.counts().tolist() == [15, 0, 0, 0, 15, 2, 15, 1]  # of a last whole group the third frame, too
    packed = DyCoke().prune(*video(7), torch.tensor([9, 1, 2, 1, 9, 8, 8]))
    assert packed.counts().tolist() == [15, 1, 1, 0, 15, 3, 3]


def test_dycoke_lengthens_its_groups_where_whole_frames_do_not_fit():
    tokens, features = video(16)
    assert DyCoke().prune(tokens, features, torch.tensor([2] * 16)).counts().tolist() == [
        15,
        1,
        1,
        *[0] * 5,
        15,
        *[0] * 7,
    ]


def test_dycoke_keeps_a_lattice_of_the_first_frame_where_none_fits():
    tokens, features = video(6)
    packed = DyCoke().prune(tokens, features, torch.tensor([1, 0, 1, 0, 1, 0]))
    assert packed.frame.tolist() == [0, 0, 0] and packed.patch.tolist() == [5, 7, 9]


def test_dycoke_refuses_a_group_without_a_pattern():
    with pytest.raises(ValueError, match="group=6 must be a power of 2"):
        DyCoke(group=6)
