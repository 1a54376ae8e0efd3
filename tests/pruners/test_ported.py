"""Ported methods against arrays recorded from their authors' code: the same tokens in every case.

Sets are equal wherever the release keeps as many tokens as the budget says. Where it loses some (a third of AKS's
frames, the last frame of DyCoke, what VidCom2 cuts off at a full frame), its set is part of ours.
"""

import pytest
import torch
from helpers.official import cases, official

from lmms_kvtp.allocators.aks import AdaptiveKeyframes
from lmms_kvtp.allocators.aks_release import AdaptiveKeyframesRelease
from lmms_kvtp.allocators.uniform import EqualBudgets
from lmms_kvtp.allocators.vcast import VCastBudgets
from lmms_kvtp.allocators.vidcom2 import VidCom2Budgets
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.pruners.cdpruner import CDPruner
from lmms_kvtp.pruners.dycoke import DyCoke
from lmms_kvtp.pruners.prumerge_plus import PruMergePlus, spread
from lmms_kvtp.pruners.tome import ToMe, match
from lmms_kvtp.pruners.vcast import VCast
from lmms_kvtp.pruners.vidcom2 import VidCom2
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.vcast import VCastRelevance
from lmms_kvtp.scorers.vidcom2 import VidCom2Relevance
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

ENCODER, QUESTION = Siglip("no/weights", device="cpu"), Question("Which star?")
"""Never read."""


def given(method: str, case: str, **features: torch.Tensor) -> tuple[FrameTokens, FrameFeatures]:
    tokens = official(method)(f"{case}/in/tokens")
    grid = tuple(official(method).cases[case]["grid"])
    return FrameTokens(tokens, grid), FrameFeatures(torch.zeros(len(tokens)), tokens=tokens, **features)


def flat(packed: PackedTokens) -> list[int]:
    return (packed.frame * packed.grid[0] * packed.grid[1] + packed.patch).tolist()


def case_of(method: str):
    return pytest.mark.parametrize("case", [case for _, case in cases(method)])


@case_of("vcast")
def test_vcast_scores_shares_and_keeps_as_released(case):
    golden, (tokens, features) = official("vcast"), given("vcast", case)
    relevance = VCastRelevance().score(features, QUESTION, ENCODER)
    torch.testing.assert_close(relevance, golden(f"{case}/out/curvature"), rtol=0, atol=1e-5)
    allocator = VCastBudgets(floor=golden.cases[case]["min_k"])
    budgets = allocator.allocate(relevance, int(golden(f"{case}/out/total")), tokens.capacity)
    assert torch.equal(budgets, golden(f"{case}/out/budgets"))
    packed = VCast().prune(tokens, features, budgets)
    assert flat(packed) == golden(f"{case}/out/kept").tolist()


def test_vcast_counts_no_change_of_brightness_as_a_turn():
    tokens = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 2.0]]])
    scores = VCastRelevance().score(FrameFeatures(torch.arange(4.0), tokens=tokens), QUESTION, ENCODER)
    assert scores.tolist() == pytest.approx([1, 1, 1, 1])


@case_of("prumerge_plus")
def test_prumerge_plus_keeps_and_enriches_as_released(case):
    golden = official("prumerge_plus")
    features = {"probe_attention": golden(f"{case}/out/class_attention"), "keys": golden(f"{case}/in/keys")}
    kept, embeds = golden(f"{case}/out/kept"), golden(f"{case}/out/embeds")
    packed = PruMergePlus().prune(*given("prumerge_plus", case, **features), torch.tensor([len(kept)]))
    assert flat(packed) == kept.tolist() and len(set(flat(packed))) == len(kept)
    torch.testing.assert_close(packed.embeds, embeds, rtol=0, atol=1e-5)
    more = PruMergePlus(extra=True).prune(*given("prumerge_plus", case, **features), torch.tensor([len(kept) + 1]))
    [extra] = set(flat(more)) - set(flat(packed))
    torch.testing.assert_close(
        more.embeds[more.patch == extra][0], golden(f"{case}/out/extra_token"), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("patches", [576, 196, 169])
def test_prumerge_plus_finds_the_set_of_any_number_of_outliers_from_its_size(patches):
    attention = torch.rand(1, patches, generator=torch.Generator().manual_seed(patches))
    ranked = attention[0].argsort(descending=True).tolist()
    for outliers in range(1, patches // 3 + 1):
        ratio = outliers / patches
        kept = {*ranked[: int(patches * ratio)], *range(0, patches - 1, int(int(1 / ratio) / 3))}
        assert set(torch.nonzero(spread(attention, torch.tensor([len(kept)]))[0]).flatten().tolist()) == kept


@case_of("dycoke")
def test_dycoke_thins_the_frames_that_the_release_thins(case):
    golden, (tokens, features) = official("dycoke"), given("dycoke", case)
    kept, frames = golden(f"{case}/out/kept").tolist(), tokens.num_frames
    lost = frames % 2 * tokens.capacity  # the release leaves out the last frame of an odd number
    budgets = EqualBudgets().allocate(torch.zeros(frames), len(kept) + lost, tokens.capacity)
    packed = DyCoke().prune(tokens, features, budgets)
    assert [cell for cell in flat(packed) if cell < (frames - frames % 2) * tokens.capacity] == kept
    assert torch.equal(packed.counts()[: frames - frames % 2], golden(f"{case}/out/per_frame")[: frames - frames % 2])


@pytest.mark.parametrize(
    ("frames", "whole"), [(16, [0, 4, 8, 12, 14]), (18, [0, 4, 8, 12, 16]), (19, [0, 4, 8, 12, 16])]
)
def test_dycoke_keeps_the_third_frame_of_a_last_whole_group(frames, whole):
    tokens = FrameTokens(torch.randn(frames, 20, 8, generator=torch.Generator().manual_seed(1)), (4, 5))
    counts = DyCoke().prune(tokens, FrameFeatures(torch.zeros(frames)), torch.full((frames,), 10)).counts()
    assert torch.nonzero(counts == 20).flatten().tolist() == whole


@case_of("cdpruner")
def test_cdpruner_keeps_as_released(case):
    golden = official("cdpruner")
    text = {"patch_text": golden(f"{case}/in/patch_text"), "text": golden(f"{case}/in/text")}
    tokens, features = given("cdpruner", case, **text)
    packed = CDPruner().prune(tokens, features, torch.full((tokens.num_frames,), golden.cases[case]["count"]))
    assert flat(packed) == golden(f"{case}/out/kept").tolist()
    assert torch.equal(packed.embeds, tokens.embeds[packed.frame, packed.patch])


@case_of("aks")
def test_aks_keeps_the_release_s_frames_and_gives_those_that_it_loses_to_other_parts(case):
    golden = official("aks")
    score, facts = golden(f"{case}/in/score"), golden.cases[case]
    allocator = AdaptiveKeyframes(threshold=facts["t1"], depth=facts["depth"])
    found = torch.nonzero(allocator.allocate(score, 10 * facts["num"], 10)).flatten().tolist()
    kept = golden(f"{case}/out/kept").tolist()
    assert len(found) == facts["num"] and set(kept) <= set(found)
    assert found == kept or case in ("random", "loses_frames")  # 64 of 72 frames and 0 of 20 in the release
    released = AdaptiveKeyframesRelease(threshold=facts["t1"], depth=facts["depth"])
    assert torch.nonzero(released.allocate(score, 10 * facts["num"], 10)).flatten().tolist() == kept


def slow_aks(scores: list[float], num: int, threshold: float, depth: int) -> list[int]:
    """The recorded algorithm, part by part."""
    low, high = min(scores), max(scores)
    scaled, parts, kept = [(score - low) / (high - low) for score in scores], [(0, len(scores), 0)], []
    while parts:
        start, stop, halvings = parts.pop()
        ranked = sorted(range(start, stop), key=lambda frame: -scaled[frame])
        mean = sum(scaled[start:stop]) / max(stop - start, 1)
        top = sum(scaled[frame] for frame in ranked[:num]) / max(len(ranked[:num]), 1)
        if top - mean > threshold or halvings == depth:
            kept += ranked[: int(num / 2**halvings)]
        else:
            middle = start + (stop - start) // 2
            parts += [(start, middle, halvings + 1), (middle, stop, halvings + 1)]
    return sorted(kept)


@pytest.mark.parametrize("seed", range(40))
def test_aks_never_loses_a_frame_of_the_release(seed):
    draw = torch.Generator().manual_seed(seed)
    frames, num = 20 + 7 * seed, 5 + 3 * (seed % 13)
    scores = torch.rand(frames, generator=draw, dtype=torch.float64) ** (1 + seed % 9)
    depth, threshold = seed % 6, 0.2 + 0.1 * (seed % 7)
    kept = slow_aks(scores.tolist(), min(num, frames), threshold, depth)
    allocator = AdaptiveKeyframes(threshold=threshold, depth=depth)
    found = torch.nonzero(allocator.allocate(scores, 3 * min(num, frames), 3)).flatten().tolist()
    assert len(found) == min(num, frames) and set(kept) <= set(found)
    released = AdaptiveKeyframesRelease(threshold=threshold, depth=depth).allocate(scores, 3 * min(num, frames), 3)
    assert torch.nonzero(released).flatten().tolist() == kept


@case_of("vidcom2")
def test_vidcom2_scores_and_keeps_as_released(case):
    golden, (tokens, features) = official("vidcom2"), given("vidcom2", case)
    relevance = VidCom2Relevance().score(features, QUESTION, ENCODER)
    torch.testing.assert_close(relevance, golden(f"{case}/out/frame_score"), rtol=0, atol=1e-5)
    budgets = golden(f"{case}/out/budgets")
    assert flat(VidCom2().prune(tokens, features, budgets)) == golden(f"{case}/out/kept").tolist()
    cells, ratio = tokens.num_frames * tokens.capacity, golden.cases[case]["ratio"]
    ours = VidCom2Budgets().allocate(relevance, int(ratio * cells + 1e-6), tokens.capacity)
    full = int((budgets == tokens.capacity).sum())  # what the cut takes off goes to the others
    assert (ours - budgets).abs().max() <= 1 or (full and (ours >= budgets).all())


@pytest.mark.parametrize("case", ["random", "scenes", "to_one"])
def test_tome_merges_down_to_a_budget_as_released(case):
    golden = official("tome")
    tokens, features = given("tome", case, keys=golden(f"{case}/in/keys"))
    budget = golden.cases[case]["budget"]
    packed = ToMe().prune(tokens, features, torch.full((tokens.num_frames,), budget))
    group, rows, size = (golden(f"{case}/out/{name}") for name in ("group", "rows", "size"))
    own = packed.owner - torch.arange(tokens.num_frames)[:, None] * budget
    for frame in range(tokens.num_frames):
        pairs = set(zip(own[frame].tolist(), group[frame].tolist(), strict=True))
        assert len(pairs) == budget == len({theirs for _, theirs in pairs})
        order = torch.tensor([theirs for _, theirs in sorted(pairs)])
        made = packed.frame == frame
        torch.testing.assert_close(packed.embeds[made], rows[frame, order], rtol=0, atol=1e-5)
        assert torch.equal(packed.size[made].long(), size[frame, order].long())


def test_tome_matches_each_round_of_a_schedule_as_released():
    golden = official("tome")
    for number, remove in enumerate(golden.cases["schedule"]["schedule"]):
        metric = golden(f"schedule/in/metric_{number}")
        slot, _ = match(metric, torch.full((len(metric),), min(remove, metric.shape[1] // 2)), "odd")
        assert torch.equal(slot, golden(f"schedule/out/round_{number}/slot"))
