"""States of patches and links between them, as a picture shows them."""

from dataclasses import replace

import torch

from lmms_kvtp.pruners.grid import Grid
from lmms_kvtp.pruners.tome import ToMe
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens
from lmms_kvtp.visualize.picture import DROPPED, KEPT, MERGED, trace

BUDGETS = (5, 0, 12)


def packed(pruner) -> PackedTokens:
    draw = torch.Generator().manual_seed(1)
    tokens = FrameTokens(torch.randn(3, 12, 40, generator=draw), (3, 4), "v")
    features = FrameFeatures(torch.arange(3.0), keys=torch.randn(3, 12, 7, generator=draw))
    return pruner.prune(tokens, features, torch.tensor(BUDGETS))


def test_tokens_that_are_only_kept_or_dropped_have_no_links():
    state, links, traced = trace(packed(Grid()))
    assert (links, traced) == ((), True)
    assert (state == KEPT).sum(dim=1).tolist() == list(BUDGETS)
    assert not (state == MERGED).any()


def test_merged_patches_are_linked_to_where_they_went():
    state, links, traced = trace(packed(ToMe()))
    assert (state[1] == DROPPED).all() and (state[2] == KEPT).all() and traced
    assert len(links) == 12 - BUDGETS[0] == int((state == MERGED).sum())
    assert all(state[link.frame, link.patch] == MERGED for link in links)
    assert all(state[link.to_frame, link.to_patch] == KEPT for link in links)


def test_a_pruner_that_merges_and_does_not_tell_is_said_to_do_so():
    state, links, traced = trace(replace(packed(ToMe()), owner=None))
    assert (links, traced) == ((), False)
    assert (state == KEPT).sum(dim=1).tolist() == list(BUDGETS)
