"""HoliTom against a search over all cuts, and a loop over windows, positions and tokens."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmms_kvtp.pruners.holitom import HoliTom, windows
from lmms_kvtp.pruners.parts.density_peaks import density_peaks
from lmms_kvtp.types import FrameFeatures, FrameTokens


def still_video(frames: int = 9, seed: int = 8) -> tuple[FrameTokens, FrameFeatures]:
    """Two scenes; in each some positions stay nearly the same and the others change."""
    draw = torch.Generator().manual_seed(seed)
    scenes = torch.randn(2, 15, 14, generator=draw).repeat_interleave(5, dim=0)[:frames]
    noise = torch.randn(frames, 15, 14, generator=draw) * torch.linspace(0.05, 0.9, 15)[:, None]
    return (
        FrameTokens(scenes + noise, (3, 5)),
        FrameFeatures(times=torch.zeros(frames), column_attention=torch.rand(frames, 15, generator=draw)),
    )


def saved(alike: np.ndarray, cuts: list[int], threshold: float) -> int:
    counts = [(alike[start + 1 : stop] > threshold).all(axis=0).sum() for start, stop in pairwise(cuts)]
    return sum(int(n) * (stop - start - 1) for n, (start, stop) in zip(counts, pairwise(cuts), strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_windows_save_as_much_as_the_best_of_all_cuts(seed):
    alike = torch.rand(7, 11, generator=torch.Generator().manual_seed(seed)) ** (1 / 3)
    found = windows(alike, 0.7)
    assert found[0] == 0 and found[-1] == 7 and found == sorted(set(found))
    every = ([0, *(i + 1 for i, cut in enumerate(marks) if cut), 7] for marks in product([0, 1], repeat=6))
    best = max(saved(alike.numpy(), cuts, 0.7) for cuts in every)
    assert saved(alike.numpy(), found, 0.7) == best > 20


def test_one_frame_is_one_window():
    assert windows(torch.zeros(1, 5), 0.8) == [0, 1]


def test_a_window_ends_where_the_scene_does():
    tokens, _ = still_video()
    alike = torch.stack([F.cosine_similarity(a, b, dim=1) for a, b in pairwise([tokens.embeds[0], *tokens.embeds])])
    assert 5 in windows(alike, 0.8)


def holitom_loop(tokens: FrameTokens, features: FrameFeatures, budgets: list[int], threshold: float):
    embeds, kept = tokens.embeds, {}
    alike = torch.stack([F.cosine_similarity(a, b, dim=1) for a, b in pairwise([embeds[0], *embeds])])
    still, moving = [], []  # (weight, cells)
    for start, stop in pairwise(windows(alike, threshold)):
        calm = [p for p in range(15) if stop - start > 1 and bool((alike[start + 1 : stop, p] > threshold).all())]
        if calm:
            still.append((float(np.mean(budgets[start:stop])) * len(calm), (start, stop, calm)))
        for t in range(start, stop):
            lively = [p for p in range(15) if p not in calm]
            moving.append((budgets[t] * len(lively), (t, lively)))
    groups = [group for group in still + moving if len(group[1][-1])]
    rates = [
        ((j - (0.5 if len(group) == 3 else 1)) / weight, g)
        for g, (weight, group) in enumerate(groups)
        for j in range(1, len(group[-1]) + 1)
        if weight
    ]
    first = [g for _, g in sorted(rates)[: sum(budgets)]]
    shares = [first.count(g) for g in range(len(groups))]
    for (_, group), share in zip(groups, shares, strict=True):
        if len(group) == 2:
            t, lively = group
            for p in sorted(lively, key=lambda p: -float(features.column_attention[t, p]))[:share]:
                kept[t, p] = embeds[t, p]
        elif share:
            start, stop, calm = group
            points = torch.stack([embeds[start:stop, p].mean(dim=0) for p in calm])
            owner = density_peaks(points, share, min(7, share)).tolist()
            for centre in set(owner):
                others = [points[i] for i in range(len(calm)) if owner[i] == centre and i != centre]
                mean = torch.stack(others).mean(dim=0) if others else points[centre]
                kept[start, calm[centre]] = 0.6 * points[centre] + 0.4 * mean
    return kept


@pytest.mark.parametrize("budgets", [[3, 4, 2, 3, 5, 2, 3, 4, 1], [6, 6, 0, 6, 6, 6, 6, 9, 6]])
def test_holitom_is_the_loop_over_windows_positions_and_tokens(budgets):
    tokens, features = still_video()
    packed = HoliTom().prune(tokens, features, torch.tensor(budgets))
    expected = holitom_loop(tokens, features, budgets, 0.8)
    cells = list(zip(packed.frame.tolist(), packed.patch.tolist(), strict=True))
    assert len(expected) == sum(budgets) and cells == sorted(expected)
    for cell, row in zip(cells, packed.embeds, strict=True):
        torch.testing.assert_close(row, expected[cell], rtol=1e-4, atol=1e-5)
    assert packed.size.max() > 4


def test_positions_that_the_budget_has_room_for_are_not_merged():
    tokens, features = still_video()
    budgets = torch.tensor([15, 15, 15, 15, 15, 15, 15, 15, 12])
    packed = HoliTom().prune(tokens, features, budgets)
    assert packed.size.tolist().count(1.0) > 125 and len(packed.embeds) == 132


def test_a_weight_outside_of_its_range_is_refused():
    with pytest.raises(ValueError, match=r"centre_weight=1\.5 is outside \[0, 1\]"):
        HoliTom(centre_weight=1.5)
