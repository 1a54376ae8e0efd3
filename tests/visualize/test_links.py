"""Where merged tokens went: found without help from the pruner, and right for every kind of merging."""

from dataclasses import dataclass

import pytest
import torch

from lmms_kvtp.allocators.uniform import Uniform as Equal
from lmms_kvtp.encode import Encoded
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.method import Method
from lmms_kvtp.pipeline import Weighed
from lmms_kvtp.pruners.base import TokenPruner
from lmms_kvtp.pruners.grid import Grid
from lmms_kvtp.pruners.prumerge import PruMerge
from lmms_kvtp.pruners.simplecluster import SimpleCluster
from lmms_kvtp.pruners.tome import ToMe
from lmms_kvtp.scorers.uniform import Uniform
from lmms_kvtp.types import FrameFeatures, FrameTokens
from lmms_kvtp.visualize.links import NOWHERE, owners
from lmms_kvtp.visualize.picture import DROPPED, KEPT, MERGED, trace

T, GRID, D, DK = 3, (3, 4), 40, 7
N = GRID[0] * GRID[1]
BUDGETS = (5, 0, 12)


def asked(pruner: TokenPruner, budgets=BUDGETS):
    """Tokens as the pipeline makes them, in inference mode, and what the pruner is given."""
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        tokens = FrameTokens(torch.randn(T, N, D, generator=generator), GRID, "v")
        attention = torch.rand(T, N, generator=generator)
        keys = torch.randn(T, N, DK, generator=generator)
        features = FrameFeatures(torch.arange(T) * 1.0, probe_attention=attention, keys=keys)
        given = Weighed(features, torch.zeros(T), torch.tensor(budgets))
        packed = pruner.prune(tokens, features, given.budgets)
    method = Method(Siglip(), Uniform(), Equal(), pruner, keep_ratio=0.5)
    return method, tokens, given, packed


def test_every_merge_of_tome_is_the_mean_of_the_tokens_that_lead_to_it():
    method, tokens, given, packed = asked(ToMe())
    found = owners(method, tokens, given, packed)
    assert (found[1] == NOWHERE).all()  # no budget: dropped
    for k in range(len(packed.frame)):
        members = tokens.embeds[found == k]
        assert len(members) == packed.size[k]
        assert torch.allclose(members.mean(dim=0), packed.embeds[k], atol=1e-5)


def test_clusters_over_all_frames_are_followed_too():
    method, tokens, given, packed = asked(SimpleCluster(), (3, 4, 2))
    found = owners(method, tokens, given, packed)
    frames = torch.arange(T)[:, None].expand(T, N)
    for k in range(len(packed.frame)):
        assert torch.allclose(tokens.embeds[found == k].mean(dim=0), packed.embeds[k], atol=1e-5)
    assert any(len(frames[found == k].unique()) > 1 for k in range(len(packed.frame)))


def test_a_token_in_several_merges_goes_to_the_nearest_of_those_in_which_it_weighs_most():
    method, tokens, given, packed = asked(PruMerge(neighbours=4))
    found = owners(method, tokens, given, packed)[0]
    rows = packed.embeds[packed.frame == 0]
    weights = torch.linalg.lstsq(tokens.embeds[0].T, rows.T).solution.abs()  # [N, K of frame 0]
    kept = packed.patch[packed.frame == 0].tolist()
    for patch, into in enumerate(found.tolist()):
        if into == NOWHERE:
            assert weights[patch].max() < 1e-3
            continue
        equal = [k for k in range(len(kept)) if weights[patch, k] > 0.99 * weights[patch].max()]
        far = [abs(kept[k] // 4 - patch // 4) ** 2 + abs(kept[k] % 4 - patch % 4) ** 2 for k in range(len(kept))]
        assert into in equal
        assert far[into] == min(far[k] for k in equal)
    assert len({tuple(row) for row in (weights > 1e-3).tolist()}) > 1


def test_tokens_that_are_only_kept_or_dropped_have_no_links():
    method, tokens, given, packed = asked(Grid())
    state, links, traced = trace(method, Encoded(tokens, given.features, "", {}), given, packed)
    assert (links, traced) == ((), True)
    assert (state == KEPT).sum(dim=1).tolist() == list(BUDGETS)
    assert not (state == MERGED).any()


def test_merged_patches_are_linked_to_where_they_went():
    method, tokens, given, packed = asked(ToMe())
    state, links, _ = trace(method, Encoded(tokens, given.features, "", {}), given, packed)
    assert (state[1] == DROPPED).all()
    assert (state[2] == KEPT).all()
    assert len(links) == N - BUDGETS[0] == int((state == MERGED).sum())
    assert all(state[link.frame, link.patch] == MERGED for link in links)
    assert all(state[link.to_frame, link.to_patch] == KEPT for link in links)


@dataclass(frozen=True)
class Detached(Grid):
    """Leaves no gradient."""

    def prune(self, tokens, features, budgets):
        return super().prune(FrameTokens(tokens.embeds.detach(), GRID, "v"), features, budgets)


@dataclass(frozen=True)
class InPlace(Grid):
    """Does what autograd refuses."""

    def prune(self, tokens, features, budgets):
        tokens.embeds.mul_(1.0)
        return super().prune(tokens, features, budgets)


@pytest.mark.parametrize("pruner", [Detached(), InPlace()], ids=["detached", "in place"])
def test_a_pruner_that_cannot_be_followed_is_said_to_be_so(pruner):
    method, tokens, given, packed = asked(pruner)
    state, links, traced = trace(method, Encoded(tokens, given.features, "", {}), given, packed)
    assert (links, traced) == ((), False)
    assert (state == KEPT).sum(dim=1).tolist() == list(BUDGETS)
