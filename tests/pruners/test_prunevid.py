"""PruneVid's first stage against arrays recorded from its release, and where we differ on purpose."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lmms_kvtp.pruners.parts import density_peaks as clustering
from lmms_kvtp.pruners.parts.density_peaks import density_peaks, peak_scores
from lmms_kvtp.pruners.parts.scenes import averages, mean_tokens, refine, segment, stillness
from lmms_kvtp.pruners.prunevid import PruneVid
from lmms_kvtp.pruners.prunevid_release import PruneVidRelease
from lmms_kvtp.types import FrameFeatures, FrameTokens

GOLDENS = Path(__file__).parents[1] / "goldens"
ARRAYS = np.load(GOLDENS / "prunevid.npz")
FACTS = json.loads((GOLDENS / "prunevid.json").read_text())
MERGES = ["merge_t16g12", "merge_t16g6", "merge_t8g5", "merge_t16g6_static", "merge_t16g6_noise"]


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name])


def labels(owner: torch.Tensor, scores_order: torch.Tensor) -> list[int]:
    """Number the clusters as the recorded ones are numbered."""
    names: dict[int, int] = {}
    for centre, label in zip(owner.tolist(), scores_order.tolist(), strict=True):
        names.setdefault(centre, label)
    return [names[centre] for centre in owner.tolist()]


@pytest.mark.parametrize("case", ["dpc0", "dpc1", "dpc2"])
@pytest.mark.parametrize("noisy", [False, True])
def test_density_peaks_are_those_of_the_release(case, noisy):
    points, (clusters, neighbours) = golden(f"{case}/x")[0], golden(f"{case}/cluster_num_k").tolist()
    noise = golden(f"{case}/noise")[0] * 1e-6 if noisy else None
    owner = density_peaks(points, clusters, neighbours, noise)
    expected = golden(f"{case}/idx_with_noise" if noisy else f"{case}/idx_zero_noise")[0]
    assert torch.equal(owner[owner], owner) and len(owner.unique()) == clusters
    assert labels(owner, expected) == expected.tolist()


@pytest.mark.parametrize("pairs", [1, 40, 1000])
def test_density_peaks_of_many_points_are_found_a_few_rows_at_a_time(pairs, monkeypatch):
    points = torch.randn(37, 5, generator=torch.Generator().manual_seed(4))
    points[-1] = points[:-1].mean(dim=0)  # far from no one
    at_once = density_peaks(points, 9), peak_scores(points, 4)
    monkeypatch.setattr(clustering, "PAIRS_AT_ONCE", pairs)
    assert torch.equal(density_peaks(points, 9), at_once[0])
    torch.testing.assert_close(peak_scores(points, 4), at_once[1])
    with pytest.raises(ValueError, match="NaN"):
        density_peaks(points.index_fill(0, torch.tensor([20]), torch.nan), 9)


def test_long_scenes_are_averaged_a_few_frames_at_a_time():
    frames = torch.randn(37, 3, 5, generator=torch.Generator().manual_seed(6)).bfloat16()
    group = torch.arange(37 * 3).reshape(37, 3)[:, [2, 0]]
    torch.testing.assert_close(averages(frames.flatten(0, 1), group), frames[:, [2, 0]].float().mean(dim=0))
    torch.testing.assert_close(mean_tokens(frames), frames.float().mean(dim=1))


def test_runs_of_frames_join_as_in_the_release():
    assert [refine(row) for row in golden("refine/in").tolist()] == golden("refine/out").tolist()


@pytest.mark.parametrize("case", MERGES)
def test_the_release_s_pruner_keeps_its_tokens_whatever_the_budget(case):
    tokens, features = video(case)
    packed = PruneVidRelease().prune(tokens, features, torch.ones(len(tokens.embeds), dtype=torch.int64))
    release = golden(f"{case}/merged")[0]
    nearest = torch.cdist(packed.embeds, release).argmin(dim=1)  # its clusters stand in the order of their scores
    assert sorted(nearest.tolist()) == list(range(len(release)))
    torch.testing.assert_close(packed.embeds, release[nearest], rtol=1e-5, atol=1e-5)
    ends = golden(f"{case}/window_sizes").cumsum(0)
    assert packed.segment[-1] == packed.segment.max() and int(ends[-1]) == len(tokens.embeds)


def test_the_release_s_ratio_is_of_what_merging_over_time_leaves():
    still = FrameTokens(torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(2)).expand(8, -1, -1), (5, 6))
    packed = PruneVidRelease(ratio=0.3).prune(still, FrameFeatures(torch.zeros(8)), torch.full((8,), 30))
    assert len(packed.size) == 9 and packed.size.sum() == 8 * 30
    with pytest.raises(ValueError, match=r"ratio=1\.5 is outside"):
        PruneVidRelease(ratio=1.5)


def published(frames: torch.Tensor) -> list[torch.Tensor]:
    """The merged tokens of each block (static, then frame by frame) at the published ratios, from our parts."""
    blocks = []
    lengths = segment(frames.mean(dim=1), int(0.25 * len(frames)), 7)
    for scene in frames.split(lengths):
        still = stillness(scene) > 0.8
        for points in [scene[:, still].mean(dim=0), *scene[:, ~still]]:
            kept = len(points) // 2 if len(points) > 14 else len(points)
            if kept == len(points):
                blocks.append(points)
                continue
            owner = density_peaks(points, kept)
            blocks.append(torch.stack([points[owner == centre].mean(dim=0) for centre in owner.unique()]))
    return blocks


@pytest.mark.parametrize("case", MERGES)
def test_scenes_and_merges_at_the_published_ratios_are_those_of_the_release(case):
    frames = golden(f"{case}/frames")
    lengths = segment(frames.mean(dim=1), int(0.25 * len(frames)), 7)
    assert lengths == golden(f"{case}/window_sizes").tolist()
    ours = published(frames)
    expected = golden(f"{case}/merged")[0].split([len(block) for block in ours])
    for block, release in zip(ours, expected, strict=True):
        if not len(block):
            continue
        distances = torch.cdist(block, release)  # the release's clusters stand in the order of their scores
        torch.testing.assert_close(block, release[distances.argmin(dim=1)], rtol=1e-5, atol=1e-5)
        assert len(distances.argmin(dim=1).unique()) == len(block)


def video(case: str) -> tuple[FrameTokens, FrameFeatures]:
    frames = golden(f"{case}/frames")
    side = int(frames.shape[1] ** 0.5)
    return FrameTokens(frames, (side, side)), FrameFeatures(times=torch.zeros(len(frames)))


def test_equal_budgets_of_the_published_total_keep_the_published_sizes():
    tokens, features = video("merge_t16g12")
    sizes = [len(block) for block in published(tokens.embeds)]
    expected = []
    for length in golden("merge_t16g12/window_sizes").tolist():
        static, *dynamic = (sizes.pop(0) for _ in range(length + 1))
        expected += [static + dynamic[0], *dynamic[1:]]
    budgets = torch.full((16,), sum(expected) // 16) + (torch.arange(16) < sum(expected) % 16)
    packed = PruneVid().prune(tokens, features, budgets)
    assert (packed.counts() - torch.tensor(expected)).abs().max() <= 2  # the published sizes are rounded down
    assert packed.size.sum() == 16 * 144


def test_static_patches_become_one_token_of_their_scene_and_no_others():
    generator = torch.Generator().manual_seed(0)
    still, moving = torch.randn(1, 4, 8, generator=generator), torch.randn(6, 2, 8, generator=generator)
    tokens = FrameTokens(torch.cat([still.expand(6, -1, -1), moving], dim=1), (2, 3))
    packed = PruneVid(scenes=0.0).prune(tokens, FrameFeatures(times=torch.zeros(6)), torch.tensor([3, 3, 3, 3, 2, 2]))
    assert packed.frame.tolist() == [0] * 6 + [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert packed.size.tolist() == [6.0] * 4 + [1.0] * 12
    torch.testing.assert_close(packed.embeds[:4], still[0])


def test_what_was_clustered_together_is_a_segment_for_the_layers():
    generator = torch.Generator().manual_seed(0)
    still, moving = torch.randn(1, 4, 8, generator=generator), torch.randn(6, 2, 8, generator=generator)
    tokens = FrameTokens(torch.cat([still.expand(6, -1, -1), moving], dim=1), (2, 3))
    packed = PruneVid(scenes=0.0).prune(tokens, FrameFeatures(times=torch.zeros(6)), torch.tensor([3, 3, 3, 3, 2, 0]))
    static = packed.size > 3
    assert static.sum() > 1 and (~static).sum() > 5
    assert (packed.segment[static] == 0).all()
    assert torch.equal(packed.segment[~static], packed.frame[~static] + 1)


def test_static_patches_stay_apart_where_the_total_leaves_room():
    tokens = FrameTokens(torch.ones(4, 6, 8), (2, 3))
    packed = PruneVid().prune(tokens, FrameFeatures(times=torch.zeros(4)), torch.tensor([6, 6, 6, 2]))
    assert len(packed.size) == 20 and (packed.size >= 4).sum() == 1 and packed.size.sum() == 24


def test_budgets_weight_the_frames():
    tokens, features = video("merge_t16g6_noise")
    even = PruneVid().prune(tokens, features, torch.full((16,), 12)).counts()
    tilted = PruneVid().prune(tokens, features, torch.tensor([4] * 8 + [20] * 8)).counts()
    assert tilted[:8].sum() < even[:8].sum() and tilted.sum() == even.sum()


def test_frames_without_budget_keep_a_token_where_the_total_allows_it():
    tokens, features = video("merge_t16g6_noise")
    counts = PruneVid().prune(tokens, features, torch.tensor([0] * 8 + [24] * 8)).counts()
    assert counts[:8].tolist() == [1] * 8


def test_single_frames_are_all_dynamic():
    scene = torch.ones(1, 5, 8)
    assert (stillness(scene) == -torch.inf).all()
    packed = PruneVid().prune(FrameTokens(scene, (1, 5)), FrameFeatures(times=torch.zeros(1)), torch.tensor([2]))
    assert packed.size.sum() == 5 and len(packed.size) == 2
