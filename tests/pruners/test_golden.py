"""Parity with arrays recorded from KVTP's release and from the original ToMe and PruMerge."""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from lmms_kvtp.allocators.kvtp_release import counts
from lmms_kvtp.pruners.parts.packing import pack, top
from lmms_kvtp.pruners.prumerge import PruMerge
from lmms_kvtp.pruners.tome import ToMe, match
from lmms_kvtp.types import FrameFeatures, FrameTokens, GridPool

GOLDENS = Path(__file__).parents[1] / "goldens"
RELEASE = np.load(GOLDENS / "kvtp_pruners.npz")
FACTS = json.loads((GOLDENS / "kvtp_pruners.json").read_text())
ORIGINAL = np.load(GOLDENS / "tome_prumerge_original.npz")
POOL = GridPool("average", (27, 27))


def release(name: str) -> torch.Tensor:
    return torch.from_numpy(RELEASE[name])


def original(name: str) -> torch.Tensor:
    return torch.from_numpy(ORIGINAL[name])


@cache
def unpooled_keys() -> torch.Tensor:
    keys = np.random.RandomState(12).randint(-64, 65, size=(5, 729, 1152)).astype(np.float32) / 16
    assert hashlib.sha256(keys.tobytes()).hexdigest().startswith("c5a3ccf718c2d60c")
    return torch.from_numpy(keys)


@cache
def pooled_keys(mode: str) -> torch.Tensor:
    if mode == "intended":
        return POOL(unpooled_keys())
    scrambled = unpooled_keys().reshape(5, 1152, 27, 27)  # the release's missing transpose
    return torch.nn.functional.avg_pool2d(scrambled, 2).reshape(5, 169, 1152)


def inputs(mode: str) -> tuple[FrameTokens, FrameFeatures]:
    attention = POOL(release("head_attention")[..., None])[..., 0]
    tokens = FrameTokens(release("features"), POOL.grid, "golden")
    return tokens, FrameFeatures(times=torch.zeros(5), probe_attention=attention, keys=pooled_keys(mode))


def in_raster_order(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.repeat_interleave(torch.arange(5), release(f"{name}/counts"))
    order = (frames * 169 + release(f"{name}/indices")).argsort()
    return release(f"{name}/indices")[order], release(f"{name}/features")[order]


@pytest.mark.parametrize("mode", ["official", "intended"])
def test_pooled_keys_are_those_that_the_goldens_used(mode):
    sums = pooled_keys(mode).double().sum(dim=2)
    torch.testing.assert_close(sums, release(f"pooled_keys_{mode}_rowsum_f64"), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("budget", ["rates", "uniform"])
@pytest.mark.parametrize("mode", ["official", "intended"])
@pytest.mark.parametrize("pruner", [PruMerge(), ToMe(variant="release")], ids=["prumerge", "tome"])
def test_pruners_keep_the_release_s_tokens_with_its_features(pruner, mode, budget):
    name = f"{'prumerge' if isinstance(pruner, PruMerge) else 'tome'}_{mode}_{budget}"
    packed = pruner.prune(*inputs(mode), release(f"{name}/counts"))
    patches, features = in_raster_order(name)
    assert torch.equal(packed.counts(), release(f"{name}/counts"))
    assert torch.equal(packed.patch, patches)
    torch.testing.assert_close(packed.embeds, features, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", ["rates", "norates"])
def test_the_release_s_random_permutations_give_its_tokens_in_our_order(case):
    permutations = release("random/permutations" if case == "rates" else "random/permutations_norates")
    rates = torch.tensor(FACTS["rates_prumerge"]) if case == "rates" else torch.full((5,), 0.1)
    tokens, _ = inputs("intended")
    keep = top(-permutations.argsort(dim=1).float(), counts(rates, 169, "floor"))
    expected = release(f"random/sequence_{case}")
    newline = (expected == release("newline")).all(dim=1)
    assert torch.equal(pack(tokens, tokens.embeds, keep).embeds, expected[~newline])


@pytest.mark.parametrize("case", ["even", "odd", "max"])
def test_one_round_of_matching_is_the_original_s(case):
    name = f"tome_bsm_{case}"
    metric, x = original(f"{name}/metric"), original(f"{name}/x")
    batch, length = metric.shape[:2]
    remove = torch.full((batch,), min(int(original(f"{name}/r")), length // 2))
    slot, absorbed = match(metric, remove, "odd")
    assert torch.equal(absorbed.sum(dim=1), remove)
    assert not absorbed[:, 1::2].any()
    source = torch.nn.functional.one_hot(slot, length - int(remove[0])).float().transpose(1, 2)
    size = source.sum(dim=2, keepdim=True)
    torch.testing.assert_close(source @ x / size, original(f"{name}/merge_mean"), rtol=1e-5, atol=1e-6)
    assert torch.equal(source, original(f"{name}/source"))
    torch.testing.assert_close(source @ x, original(f"{name}/merge_sum"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(source @ x / size, original(f"{name}/wavg_x"), rtol=1e-5, atol=1e-6)
    assert torch.equal(size, original(f"{name}/wavg_size"))
    unmerged = (source @ x / size).gather(1, slot[..., None].expand(-1, -1, x.shape[2]))
    torch.testing.assert_close(unmerged, original(f"{name}/unmerge"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["even", "odd", "max"])
def test_a_second_round_of_matching_weights_by_size_as_the_original(case):
    name = f"tome_bsm_{case}"
    x, size = original(f"{name}/wavg_x"), original(f"{name}/wavg_size")
    slot, _ = match(x[..., :16], torch.full((2,), 3), "odd")
    source = torch.nn.functional.one_hot(slot, x.shape[1] - 3).float().transpose(1, 2)
    torch.testing.assert_close(source @ size, original(f"{name}/round2_size"))
    merged = source @ (x * size) / (source @ size)
    torch.testing.assert_close(merged, original(f"{name}/round2_x"), rtol=1e-5, atol=1e-6)
    assert torch.equal(source @ original(f"{name}/source"), original(f"{name}/round2_source"))


@pytest.mark.parametrize("batch", ["b1", "b2"])
def test_prumerge_at_a_fixed_ratio_is_the_original_s_but_for_its_extra_token(batch):
    name = f"prumerge_{batch}_n576"
    attention, hidden = original(f"{name}/cls_attention"), original(f"{name}/hidden")[:, 1:]
    expected = original(f"{name}/advanced_fixed")[:, :-1]  # the last one sums up what was dropped
    budget = expected.shape[1]
    order = attention.topk(budget).indices.argsort(dim=1)
    features = FrameFeatures(
        times=torch.zeros(len(hidden)), probe_attention=attention, keys=original(f"{name}/k")[:, 1:]
    )
    packed = PruMerge().prune(FrameTokens(hidden, (24, 24)), features, torch.full((len(hidden),), budget))
    raster = torch.cat([rows[ranks] for rows, ranks in zip(expected, order, strict=True)])
    torch.testing.assert_close(packed.embeds, raster, rtol=1e-5, atol=2e-6)
