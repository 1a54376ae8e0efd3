"""Pruners of single frames against loops over their frames and tokens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.small_tokens import BUDGETS, video

from lmms_kvtp.cost.meter import counting
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.cdpruner import CDPruner
from lmms_kvtp.pruners.maxmin import MaxMin
from lmms_kvtp.pruners.prumerge import PruMerge
from lmms_kvtp.pruners.prumerge_plus import PruMergePlus
from lmms_kvtp.pruners.vidcom2 import VidCom2
from lmms_kvtp.pruners.visionzip import VisionZip
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens


def prune(pruner: TokenPruner, given: tuple[FrameTokens, FrameFeatures] | None = None) -> list[PackedTokens]:
    """What is kept, frame by frame."""
    packed = pruner.prune(*(given or video()), torch.tensor(BUDGETS))
    cuts = [part.split(BUDGETS) for part in (packed.embeds, packed.frame, packed.patch, packed.size)]
    return [PackedTokens(*parts, grid=(3, 5), num_frames=len(BUDGETS)) for parts in zip(*cuts, strict=True)]


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(F.cosine_similarity(first, second, dim=0))


def test_visionzip_is_the_loop_over_frames_and_tokens():
    tokens, features = video()
    for frame, kept in enumerate(prune(VisionZip())):
        anchors_wanted = int(np.floor(BUDGETS[frame] * 10 / 64 + 0.5))
        ranked = sorted(range(15), key=lambda patch: -float(features.column_attention[frame, patch]))
        dominant = ranked[: BUDGETS[frame] - anchors_wanted]
        rest = [patch for patch in range(15) if patch not in dominant]
        anchors = rest[:: max(len(rest) // anchors_wanted, 1)][:anchors_wanted] if anchors_wanted else []
        members = {patch: [patch] for patch in dominant + anchors}
        for patch in rest:
            if patch not in anchors and anchors:
                cosines = [
                    float(F.cosine_similarity(features.layer_keys[frame, patch], features.layer_keys[frame, a], dim=0))
                    for a in anchors
                ]
                members[anchors[int(np.argmax(cosines))]].append(patch)
        assert kept.patch.tolist() == sorted(members)
        assert kept.size.tolist() == [float(len(members[patch])) for patch in sorted(members)]
        for row, patch in enumerate(sorted(members)):
            own, *others = tokens.embeds[frame, members[patch]]
            wanted = own + torch.stack(others).mean(dim=0) if others else own
            torch.testing.assert_close(kept.embeds[row], wanted)


@pytest.mark.parametrize("held", [0, 2**30], ids=["computed again", "held"])
def test_maxmin_is_the_loop_over_the_tokens_of_all_frames(held, monkeypatch):
    monkeypatch.setattr("lmms_kvtp.pruners.maxmin.PAIRS_HELD", held)
    tokens, features = video()
    tokens = tokens.select(torch.arange(7))  # two blocks
    wanted = torch.tensor([9, 0, 1, 3, 2, 4, 5])
    with counting() as found:
        packed = MaxMin().prune(tokens, features, wanted)
    rows = tokens.embeds.flatten(0, 1)
    distance = 1 - F.cosine_similarity(rows[:, None], rows[None], dim=2)
    chosen: list[int] = []
    while len(chosen) < 24:
        left = [cell for cell in range(105) if cell not in chosen]
        chosen.append(max(left, key=lambda p: min(distance[p, q] for q in chosen or range(105) if q != p)))
    assert (packed.frame * 15 + packed.patch).tolist() == sorted(chosen)
    assert torch.equal(packed.embeds, rows[sorted(chosen)])
    assert MaxMin().flops(tokens, features, wanted) == found.flops


@pytest.mark.parametrize(("relevant", "sign"), [("similar", 1), ("dissimilar", -1)])
def test_cdpruner_enlarges_the_determinant_of_a_kernel_that_knows_the_question(relevant, sign):
    tokens, features = video()
    tokens = FrameTokens(torch.cat([tokens.embeds, tokens.embeds.flip(1) ** 2], dim=2), tokens.grid)  # of full rank
    relevance = sign * np.array(
        [[np.mean([cosine(patch, text) for text in features.text]) for patch in row] for row in features.patch_text]
    )
    for frame, kept in enumerate(prune(CDPruner(relevant), (tokens, features))):
        weights = (relevance[frame] - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
        rows = F.normalize(tokens.embeds[frame].double(), dim=1).numpy() * weights[:, None]
        chosen: list[int] = []
        while len(chosen) < BUDGETS[frame]:
            left = [patch for patch in range(15) if patch not in chosen]
            volume = {p: np.linalg.det(rows[[*chosen, p]] @ rows[[*chosen, p]].T) for p in left}
            chosen.append(max(volume, key=volume.__getitem__))
        assert kept.patch.tolist() == sorted(chosen)
        assert torch.equal(kept.embeds, tokens.embeds[frame, sorted(chosen)])


def test_cdpruner_takes_equal_tokens_in_their_order():
    tokens, features = video()
    alike = FrameTokens(torch.ones_like(tokens.embeds), tokens.grid)
    even = FrameFeatures(
        times=features.times, patch_text=torch.ones_like(features.patch_text), text=torch.ones_like(features.text)
    )
    for frame, kept in enumerate(prune(CDPruner(), (alike, even))):
        assert kept.patch.tolist() == list(range(BUDGETS[frame]))


def test_vidcom2_is_the_loop_over_frames_and_tokens():
    tokens, features = video()
    tokens = FrameTokens(tokens.embeds + torch.arange(8) / 4, tokens.grid)  # means are not variances
    scores = VidCom2().score(tokens, features)
    rows = tokens.embeds.reshape(-1, 8).numpy()
    steady = sorted(np.argsort(rows.var(axis=0))[:4])
    unit = [[F.normalize(token[steady], dim=0) for token in frame] for frame in tokens.embeds]
    video_mean = torch.stack([token for frame in unit for token in frame]).mean(dim=0)
    for frame, kept in enumerate(prune(VidCom2(), (tokens, features))):
        frame_mean = torch.stack(unit[frame]).mean(dim=0)
        likeness = []
        for token in unit[frame]:
            squares = [float((token - mean).square().sum()) for mean in (video_mean, frame_mean)]
            likeness.append(sum(np.exp(-d / (2 * a)) for d in squares for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)))
        torch.testing.assert_close(scores[frame], -torch.tensor(likeness).float(), rtol=1e-4, atol=1e-5)
        assert kept.patch.tolist() == sorted(np.argsort(likeness)[: BUDGETS[frame]].tolist())


def prumerge_plus_loop(attention: list[float], budget: int) -> list[int]:
    """The largest set of salient and spaced patches that fits, in the release's rounding, filled up by attention."""
    count = len(attention)
    ranked = sorted(range(count), key=lambda patch: -attention[patch])
    best: set[int] = set()
    for outliers in range(1, count + 1):
        ratio = outliers / count
        stride = int(int(1 / ratio) / 3)
        if stride:
            kept = {*ranked[: int(count * ratio)], *range(0, count - 1, stride)}
            best = kept if len(kept) <= budget else best
    return sorted([*best, *[patch for patch in ranked if patch not in best][: budget - len(best)]])


def test_prumerge_plus_adds_a_comb_to_the_salient_tokens_and_enriches_all():
    tokens, features = video()
    whole = PruMerge().prune(tokens, features, torch.full((len(BUDGETS),), 15)).embeds.reshape(-1, 15, 8)
    for frame, kept in enumerate(prune(PruMergePlus())):
        assert kept.patch.tolist() == prumerge_plus_loop(features.probe_attention[frame].tolist(), BUDGETS[frame])
        torch.testing.assert_close(kept.embeds, whole[frame, kept.patch])


def test_the_extra_token_of_prumerge_plus_sums_up_what_was_dropped():
    tokens, features = video()
    for frame, kept in enumerate(prune(PruMergePlus(extra=True))):
        budget, attention = BUDGETS[frame], features.probe_attention[frame]
        if 0 < budget < 15:
            patches = prumerge_plus_loop(attention.tolist(), budget - 1)
            dropped = [patch for patch in range(15) if patch not in patches]
            assert kept.patch.tolist() == sorted([*patches, dropped[-1]])
            extra = kept.embeds[kept.patch.tolist().index(dropped[-1])]
            torch.testing.assert_close(extra, (attention[dropped, None] * tokens.embeds[frame, dropped]).sum(dim=0))
        else:
            assert len(kept.patch) == budget


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (VisionZip, {"contextual": 1.5}, "contextual=1.5 is outside"),
        (PruMergePlus, {"neighbours": -1}, "neighbours=-1 must be"),
        (PruMerge, {"neighbours": -1}, "neighbours=-1 must be"),
        (VidCom2, {"channels": 0.0}, "channels=0.0 is outside"),
        (VidCom2, {"widths": (1.0, 0.0)}, "must be positive"),
    ],
)
def test_settings_that_mean_nothing_are_refused(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)
