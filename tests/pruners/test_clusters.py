"""Clustering pruners against loops over scenes, tokens and clusters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmms_kvtp.allocators.base import largest_remainder
from lmms_kvtp.allocators.softmax import Softmax
from lmms_kvtp.pruners.fastvid import FastVid
from lmms_kvtp.pruners.flashvid import FlashVid
from lmms_kvtp.pruners.parts import groups
from lmms_kvtp.pruners.parts.scenes import cut
from lmms_kvtp.pruners.parts.spread import lattice
from lmms_kvtp.pruners.simplecluster import SimpleCluster, directions, owners, rotate
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

Cell = tuple[int, int]


def video(frames: int = 11, seed: int = 5) -> tuple[FrameTokens, FrameFeatures]:
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(frames // 4 + 1, 1, 10, generator=generator).repeat_interleave(4, dim=0)[:frames]
    return (
        FrameTokens(torch.randn(frames, 15, 14, generator=generator), (3, 5)),
        FrameFeatures(
            times=torch.zeros(frames),
            image=scene[:, 0] + 0.05 * torch.randn(frames, 10, generator=generator),
            probe_attention=torch.rand(frames, 15, generator=generator),
        ),
    )


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(F.cosine_similarity(first, second, dim=0))


def cells(packed: PackedTokens) -> list[tuple[int, int]]:
    return list(zip(packed.frame.tolist(), packed.patch.tolist(), strict=True))


@pytest.mark.parametrize(("at_least", "lengths"), [(1, [4, 4, 3]), (3, [4, 4, 3]), (5, [4, 1, 1, 2, 3])])
def test_scenes_end_at_low_similarity_and_at_the_lowest_where_there_are_too_few(at_least, lengths):
    frames = torch.tensor([[1, 0.0]] * 4 + [[0, 1.0], [0.1, 1], [0.3, 1], [0.3, 1]] + [[1, 0.0]] * 3)
    assert cut(frames, at_least, 0.9) == lengths
    assert cut(frames[:1], at_least, 0.9) == [1]


def fastvid_loop(
    tokens: FrameTokens, features: FrameFeatures, budgets: list[int]
) -> dict[tuple[int, int], torch.Tensor]:
    """With budgets that need no giving back."""
    kept = {}
    lengths = cut(features.image, 3, 0.9)
    for scene in np.split(np.arange(len(budgets)), np.cumsum(lengths)[:-1]):
        total = sum(budgets[t] for t in scene)
        context, holders = int(total * 0.4), list(scene[::-1][::4])
        counts = {t: context // len(holders) + (i < context % len(holders)) for i, t in enumerate(holders)}
        shares = largest_remainder(torch.tensor([budgets[t] for t in scene]).double(), total - context, 15).tolist()
        anchors, others = {}, []
        for t, share in zip(scene, shares, strict=True):
            ranked = features.probe_attention[t].argsort(descending=True).tolist()
            salient, rest = ranked[:share], sorted(ranked[share:])
            kept |= {(t, p): tokens.embeds[t, p] for p in salient}
            peaks = density_peaks_loop(tokens.embeds[t, rest], 4) if t in holders else []
            chosen = [rest[index] for index in peaks[: counts.get(t, 0)]]
            anchors |= {(t, p): [] for p in chosen}
            others += [(t, p) for p in rest]
        for holder in holders:
            own = [cell for cell in anchors if cell[0] == holder]
            for cell in set(others) - set(own) if own else ():
                best = max(own, key=lambda anchor: cosine(tokens.embeds[anchor], tokens.embeds[cell]))
                anchors[best].append(cell)
        for cell, members in anchors.items():
            mean = torch.stack([tokens.embeds[member] for member in members]).mean(dim=0) if members else 0
            weight = max(1 / (len(members) + 1), 0.6) if members else 1
            kept[cell] = weight * tokens.embeds[cell] + (1 - weight) * mean
    return kept


def density_peaks_loop(points: torch.Tensor, neighbours: int) -> list[int]:
    if not len(points):
        return []
    distance = [[float((a - b).norm()) / points.shape[1] ** 0.5 for b in points] for a in points]
    density = [np.exp(-np.mean(np.square(sorted(row)[:neighbours]))) for row in distance]
    scores = []
    for index, row in enumerate(distance):
        denser = [gap for other, gap in enumerate(row) if density[other] > density[index]]
        scores.append(density[index] * (min(denser) if denser else max(map(max, distance))))
    return sorted(range(len(points)), key=lambda index: -scores[index])


def test_fastvid_is_the_loop_over_scenes_frames_and_tokens():
    tokens, features = video()
    budgets = [4, 3, 5, 2, 0, 6, 1, 4, 3, 3, 2]
    packed = FastVid(scenes=3).prune(tokens, features, torch.tensor(budgets))
    expected = fastvid_loop(tokens, features, budgets)
    assert cells(packed) == sorted(expected)
    for cell, row in zip(cells(packed), packed.embeds, strict=True):
        torch.testing.assert_close(row, expected[cell], rtol=1e-4, atol=1e-5)


def test_fastvid_keeps_each_scene_s_budgets_and_gives_back_anchors_that_do_not_fit():
    tokens, features = video()
    budgets = torch.tensor([15, 14, 15, 15, 9, 15, 0, 12, 15, 15, 15])
    counts = FastVid(scenes=3).prune(tokens, features, budgets).counts()
    for scene, wanted in zip(counts.split([4, 4, 3]), budgets.split([4, 4, 3]), strict=True):
        assert scene.sum() == wanted.sum()


def test_fastvid_without_anchors_drops_what_is_not_salient():
    tokens, features = video()
    packed = FastVid(context=0.0).prune(tokens, features, torch.full((11,), 4))
    assert packed.counts().tolist() == [4] * 11 and (packed.size == 1).all()


def test_rotation_turns_pairs_of_channels_by_frame_row_and_column():
    tokens, _ = video()
    rotated = rotate(tokens.embeds, (3, 5), 100.0)
    for frame, patch in [(0, 0), (7, 13), (10, 4)]:
        expected = tokens.embeds[frame, patch].clone()
        for axis, position in enumerate((frame, patch // 5, patch % 5)):
            for pair in range(2):  # 14 channels: three times two pairs, and two that stay
                angle = position * 100.0 ** (-pair / 2)
                i, j = 4 * axis + pair, 4 * axis + 2 + pair
                a, b = tokens.embeds[frame, patch, i], tokens.embeds[frame, patch, j]
                expected[i] = a * np.cos(angle) - b * np.sin(angle)
                expected[j] = b * np.cos(angle) + a * np.sin(angle)
        torch.testing.assert_close(rotated[frame, patch], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_directions_count_frames_through_the_video_and_keep_its_precision(dtype):
    tokens, _ = video(frames=19)  # more than stand in memory together
    tokens = replace(tokens, embeds=tokens.embeds.to(dtype))
    unit, rotated = directions(tokens, 100.0), rotate(tokens.embeds.float(), (3, 5), 100.0)
    assert unit.dtype == dtype
    torch.testing.assert_close(unit.float(), F.normalize(rotated, dim=2).reshape(-1, 14), rtol=5e-3, atol=1e-3)


def test_simplecluster_with_mass_by_budget_moves_clusters_to_the_frames_that_the_question_is_about():
    """KVTP's budgets are 6 to 1."""
    tokens, features = video(frames=2, seed=8)
    relevance = torch.tensor([4.0, 0.4])
    budgets = Softmax().allocate(relevance, 14, 15)
    assert budgets.tolist() == [12, 2]
    unit = directions(tokens, 1e4)
    packed = {mass: SimpleCluster(mass=mass, rounds=1).prune(tokens, features, budgets) for mass in ("token", "budget")}
    assert not torch.equal(packed["token"].embeds, packed["budget"].embeds)
    seeds = torch.stack([lattice(budget, 3, 5) for budget in budgets.tolist()]).flatten()
    first = (unit @ unit[seeds].T).argmax(dim=1)
    weight = torch.tensor([12.0] * 15 + [2.0] * 15)
    for weights, mass in ((torch.ones(30), "token"), (weight, "budget")):
        centres = F.normalize(torch.stack([(weights[first == c, None] * unit[first == c]).sum(0) for c in range(14)]))
        cluster = (unit @ centres.T).argmax(dim=1)
        assert len(cluster.unique()) == 14
        means = torch.stack([tokens.embeds.reshape(-1, 14)[cluster == c].mean(dim=0) for c in range(14)])
        assert torch.cdist(packed[mass].embeds, means).amin(dim=1).max() < 1e-5


@pytest.mark.parametrize("mass", ["token", "budget"])
def test_simplecluster_is_the_loop_over_tokens_and_clusters(mass):
    tokens, features = video()
    budgets = [4, 3, 5, 2, 0, 6, 1, 4, 3, 3, 2]
    packed = SimpleCluster(rounds=2, mass=mass).prune(tokens, features, torch.tensor(budgets))
    unit = F.normalize(rotate(tokens.embeds, (3, 5), 1e4), dim=2).reshape(-1, 14)
    weight = [max(b, 1e-3) if mass == "budget" else 1.0 for b in budgets for _ in range(15)]
    seeds = [t * 15 + p for t, b in enumerate(budgets) for p in range(15) if lattice(b, 3, 5)[p]]
    centres = [unit[seed] for seed in seeds]
    for step in range(3):
        likeness = [[float(row @ centre) for centre in centres] for row in unit]
        members = {c: [m for m in range(165) if np.argmax(likeness[m]) == c] for c in range(len(centres))}
        if step < 2:
            for c, own in members.items():
                if own:
                    centres[c] = F.normalize(sum(weight[m] * unit[m] for m in own), dim=0)
    assert all(members.values())
    stands = {max(own, key=lambda m: likeness[m][c]): own for c, own in members.items()}
    assert cells(packed) == [(cell // 15, cell % 15) for cell in sorted(stands)]
    rows = torch.stack([tokens.embeds.reshape(-1, 14)[stands[cell]].mean(dim=0) for cell in sorted(stands)])
    torch.testing.assert_close(packed.embeds, rows, rtol=1e-4, atol=1e-5)


def test_simplecluster_restarts_empty_clusters_at_the_tokens_least_like_their_own():
    tokens, features = video(frames=2)
    equal = tokens.embeds.clone()
    equal[:, :8] = equal[:, :1]
    still = replace(tokens, embeds=equal)
    packed = SimpleCluster(base=1e30).prune(still, features, torch.tensor([13, 14]))
    assert len(packed.embeds) == 27 and packed.size.sum() == 30 and len(set(cells(packed))) == 27


def test_a_token_that_stands_for_a_cluster_does_not_restart_another():
    likeness = torch.tensor([0.9, 0.95, 0.8, 0.1, 0.05])
    assert owners(torch.tensor([0, 0, 0, 2, 2]), likeness, 4).tolist() == [1, 1, 2, 3, 4]


def test_simplecluster_with_budgets_puts_more_tokens_where_the_budgets_are():
    tokens, features = video()
    budgets = torch.tensor([9, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    even = SimpleCluster().prune(tokens, features, torch.tensor([3] * 5 + [2] * 6)).counts()
    assert SimpleCluster().prune(tokens, features, budgets).counts()[:2].sum() > even[:2].sum() + 5


def still_video(frames: int = 9) -> tuple[FrameTokens, FrameFeatures]:
    """Two scenes whose patches change little from frame to frame."""
    generator = torch.Generator().manual_seed(8)
    scenes = torch.randn(2, 15, 14, generator=generator).repeat_interleave(5, dim=0)[:frames]
    noise = torch.randn(frames, 15, 14, generator=generator)
    return (
        FrameTokens(scenes + 0.35 * noise, (3, 5)),
        FrameFeatures(times=torch.zeros(frames), column_attention=torch.rand(frames, 15, generator=generator)),
    )


def flashvid_loop(tokens: FrameTokens, features: FrameFeatures, budgets: list[int]) -> dict[Cell, torch.Tensor]:
    kept = {}
    for scene in (range(5), range(5, 9)):
        means = [tokens.embeds[t].mean(dim=0) for t in scene]
        rest, count = [], 0
        for t in scene:
            rows, chosen = tokens.embeds[t], []
            suits = [np.mean([float(row @ mean) for mean in means]) for row in rows]
            weight = [float(features.column_attention[t, p]) * suits[p] for p in range(15)]
            apart = {(q, p): (1 - cosine(rows[p], rows[q])) * weight[p] for p in range(15) for q in range(15)}
            wanted = int(np.ceil(0.7 * budgets[t]))
            for _ in range(wanted):
                left = [p for p in range(15) if p not in chosen]
                second = {p: sorted(apart[q, p] for q in range(15))[1] for p in left}
                gain = {p: min(apart[q, p] for q in chosen) for p in left} if chosen else second
                chosen.append(max(gain, key=gain.__getitem__))
            kept |= {(t, p): rows[p] for p in chosen}
            rest += [(t, p) for p in range(15) if p not in chosen]
            count += budgets[t] - wanted
        joints = {}
        for t, p in rest:
            before = [cell for cell in rest if cell[0] == t - 1]
            alike = {cell: cosine(tokens.embeds[t, p], tokens.embeds[cell]) for cell in before}
            if alike:
                joints[t, p] = max(alike, key=alike.__getitem__), max(alike.values())
        strongest = sorted(joints, key=lambda cell: -joints[cell][1])
        joined = [cell for cell in strongest if joints[cell][1] > 0.8]
        if len(rest) - len(joined) < count:
            joined = strongest[: max(len(rest) - count - 1, 0)]  # above the least that would do
        trees: dict[Cell, list[Cell]] = {}
        for cell in rest:
            root = cell
            while root in joined:
                root = joints[root][0]
            trees.setdefault(root, []).append(cell)
        roots = sorted(trees)
        own = {root: 1 + sum(joints[cell][0] == root for cell in joined) for root in roots}
        values = {root: torch.stack([tokens.embeds[c] for c in trees[root]]).sum(dim=0) / own[root] for root in roots}
        frames = [[root for root in roots if root[0] == t] for t in scene]
        rates = sorted((j / size, -size, f) for f, size in enumerate(map(len, frames)) for j in range(size))
        first = [f for _, _, f in rates[:count]]
        for f, frame in enumerate(frames):
            num = first.count(f)
            points = [values[root] for root in frame]
            order = density_peaks_loop(torch.stack(points), min(7, num)) if 0 < num < len(points) else []
            centres = order[:num] if order else range(num)
            clusters: dict[int, list[torch.Tensor]] = {centre: [] for centre in centres}
            for index, point in enumerate(points if num else []):
                nearest = min(centres, key=lambda c: float((point - points[c]).norm()) - (c == index))
                clusters[nearest].append(point)
            kept |= {frame[centre]: torch.stack(members).mean(dim=0) for centre, members in clusters.items()}
    return kept


@pytest.mark.parametrize("budgets", [[3, 4, 2, 3, 5, 2, 3, 4, 1], [15, 14, 15, 15, 14, 15, 15, 15, 14]])
def test_flashvid_is_the_loop_over_scenes_frames_and_tokens(budgets):
    tokens, features = still_video()
    packed = FlashVid(scenes=2, scene_threshold=0.5).prune(tokens, features, torch.tensor(budgets))
    expected = flashvid_loop(tokens, features, budgets)
    assert cells(packed) == sorted(expected)
    for cell, row in zip(cells(packed), packed.embeds, strict=True):
        torch.testing.assert_close(row, expected[cell], rtol=1e-4, atol=1e-5)


def test_flashvid_keeps_each_scene_s_budgets_and_all_of_its_mass():
    tokens, features = still_video()
    packed = FlashVid(scenes=2, scene_threshold=0.5).prune(tokens, features, torch.tensor([4, 4, 5, 5, 5, 4, 6, 4, 5]))
    assert packed.counts()[:5].sum() == 23 and packed.counts()[5:].sum() == 19
    assert packed.size.sum() == 9 * 15 and packed.size.max() > 4


def test_sums_of_half_precision_are_those_of_float32_a_few_columns_at_a_time(monkeypatch):
    monkeypatch.setattr(groups, "COLUMNS_AT_ONCE", 3)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(2, 9, 7, generator=generator).bfloat16()
    weights, owner = torch.rand(2, 9, generator=generator), torch.randint(0, 4, (2, 9), generator=generator)
    members = groups.group(owner, 4, torch.arange(2))
    expected = groups.group_sums(rows.float(), members, weights)
    assert torch.equal(groups.group_sums(rows, members, weights), expected) and expected.dtype == torch.float32


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"context=1.5 and anchor_weight=0.6"):
        FastVid(context=1.5)
    with pytest.raises(ValueError, match=r"interval=0 must be at least 1"):
        FastVid(interval=0)
    with pytest.raises(ValueError, match=r"salient=-0.5 is outside"):
        FlashVid(salient=-0.5)
    with pytest.raises(ValueError, match="scenes=0 must be at least 1"):
        FlashVid(scenes=0)
