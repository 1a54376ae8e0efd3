"""What every pruner promises, checked for each of them by name."""

from dataclasses import fields, replace

import pytest
import torch
from helpers.pretend_gpu import pretend_gpu, put_all, reported_waits, there
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_kvtp.method import build_part
from lmms_kvtp.presets import names_of
from lmms_kvtp.pruners.base import ScorePruner, TokenPruner
from lmms_kvtp.pruners.fastvid import FastVid
from lmms_kvtp.pruners.none import Unpruned
from lmms_kvtp.pruners.parts.packing import land, refused_later
from lmms_kvtp.pruners.prumerge import PruMerge
from lmms_kvtp.pruners.prumerge_plus import PruMergePlus
from lmms_kvtp.types import FEATURES, FrameFeatures, FrameTokens, PackedTokens

PRUNERS = {name: build_part("pruner", name) for name in names_of("pruner")}
PRUNERS["prumerge_plus with its extra token"] = PruMergePlus(extra=True)
every = pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
WIDTHS = {"image": 5, "keys": 6, "layer_keys": 4, "patch_text": 5}


def video(
    pruner: TokenPruner, frames: int, grid: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[FrameTokens, FrameFeatures]:
    """A made-up video with those features alone that the pruner declares."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    patches = grid[0] * grid[1]
    made = {"image": normal(frames, 5), "text": normal(2, 5)}
    for name in sorted(FEATURES - {"image"}):
        shape = (frames, patches, WIDTHS[name]) if name in WIDTHS else (frames, patches)
        made[name] = normal(*shape) if name in WIDTHS else normal(*shape).abs()
    tokens = FrameTokens(normal(frames, patches, 8), grid, key="a video")
    return tokens, FrameFeatures(times=torch.arange(frames).float(), **{name: made[name] for name in pruner.needs})


def possible(pruner: TokenPruner, budgets: list[int], patches: int) -> torch.Tensor:
    """The budgets, made whole frames for the pruner that knows nothing else."""
    if isinstance(pruner, Unpruned):
        budgets = [patches * (2 * budget >= patches) for budget in budgets]
    return torch.tensor(budgets)


def prune(pruner: TokenPruner, tokens: FrameTokens, features: FrameFeatures, budgets: torch.Tensor) -> PackedTokens:
    return pruner.prune(tokens, features, budgets)


def same(first: PackedTokens, second: PackedTokens) -> bool:
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(PackedTokens)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def check_packed(pruner: TokenPruner, packed: PackedTokens, tokens: FrameTokens, budgets: torch.Tensor) -> None:
    """Counts, order and shapes."""
    if pruner.scope == "frame":
        assert packed.counts().tolist() == budgets.tolist()
    assert len(packed.embeds) == len(packed.frame) == len(packed.patch) == len(packed.size)
    assert len(packed.embeds) == budgets.sum() or not pruner.exact
    assert packed.embeds.dtype == tokens.embeds.dtype and packed.embeds.shape[1] == tokens.embeds.shape[2]
    assert packed.grid == tokens.grid and packed.num_frames == tokens.num_frames
    assert not torch.isnan(packed.embeds).any()
    cells = packed.frame * tokens.capacity + packed.patch
    steps = cells.diff()
    assert (steps > 0).all() if pruner.scope == "frame" else (steps >= 0).all()
    assert len(cells) == 0 or (packed.patch.min() >= 0 and packed.patch.max() < tokens.capacity)
    assert (packed.size > 0).all()
    if packed.owner is None:
        assert (packed.size == 1).all(), "merged tokens have owners"
        return
    assert packed.owner.shape == tokens.embeds.shape[:2] and packed.owner.min() >= -1
    if not pruner.exact:  # a token may stand twice
        return
    assert torch.equal(packed.owner[packed.frame, packed.patch], torch.arange(len(packed.embeds)))
    if not isinstance(pruner, PruMerge | PruMergePlus | FastVid):  # there a token is in several sums
        members = torch.bincount(packed.owner[packed.owner >= 0], minlength=len(packed.embeds))
        assert torch.equal(members.float(), packed.size)


@every
@settings(max_examples=15)
@given(budgets=st.lists(st.integers(0, 12), min_size=1, max_size=7))
def test_keeps_exactly_the_budget_in_raster_order(pruner, budgets):
    tokens, features = video(pruner, len(budgets), (3, 4), seed=sum(budgets))
    wanted = possible(pruner, budgets, 12)
    check_packed(pruner, prune(pruner, tokens, features, wanted), tokens, wanted)


@every
@pytest.mark.parametrize(("frames", "grid"), [(1, (9, 9)), (2, (13, 13)), (17, (14, 14)), (3, (5, 2)), (2, (1, 1))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_works_on_any_grid_and_precision(pruner, frames, grid, dtype):
    tokens, features = video(pruner, frames, grid, seed=frames, dtype=dtype)
    patches = grid[0] * grid[1]
    wanted = possible(pruner, [(7 * frame + patches // 5 + 1) % (patches + 1) for frame in range(frames)], patches)
    check_packed(pruner, prune(pruner, tokens, features, wanted), tokens, wanted)


@every
def test_works_on_256_frames(pruner):
    tokens, features = video(pruner, 256, (2, 3))
    wanted = possible(pruner, [frame % 7 for frame in range(256)], 6)
    check_packed(pruner, prune(pruner, tokens, features, wanted), tokens, wanted)


@every
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_frames_keep_their_budget(pruner, value):
    tokens, features = video(pruner, 5, (3, 4))
    flat = {name: torch.full_like(getattr(features, name), value) for name in pruner.needs}
    wanted = possible(pruner, [12, 0, 5, 1, 7], 12)
    constant = replace(tokens, embeds=torch.full_like(tokens.embeds, value))
    check_packed(pruner, prune(pruner, constant, replace(features, **flat), wanted), constant, wanted)


@every
def test_full_budgets_change_nothing_where_that_is_declared(pruner):
    tokens, features = video(pruner, 5, (3, 4))
    packed = prune(pruner, tokens, features, torch.full((5,), 12))
    if not pruner.exact:
        return
    assert torch.equal(packed.frame * 12 + packed.patch, torch.arange(60))
    assert torch.equal(packed.embeds, tokens.embeds.flatten(0, 1)) == pruner.identity_at_full or not pruner.exact


@every
@settings(max_examples=15)
@given(budgets=st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_nothing_is_lost_where_that_is_declared(pruner, budgets):
    if not pruner.conserves_mass:
        return
    tokens, features = video(pruner, len(budgets), (3, 4), seed=len(budgets))
    wanted = possible(pruner, budgets, 12)
    packed = prune(pruner, tokens, features, wanted)
    mass = packed.size[:, None] * packed.embeds
    if pruner.scope == "video":
        assert packed.size.sum() == 12 * len(budgets)
        torch.testing.assert_close(mass.sum(dim=0), tokens.embeds.sum(dim=(0, 1)), rtol=1e-4, atol=1e-4)
        return
    alive = (wanted > 0).float()
    sizes = torch.zeros(len(budgets)).index_add(0, packed.frame, packed.size)
    assert torch.equal(sizes, alive * 12)
    sums = torch.zeros(len(budgets), 8).index_add(0, packed.frame, mass)
    torch.testing.assert_close(sums, tokens.embeds.sum(dim=1) * alive[:, None], rtol=1e-4, atol=1e-4)


@every
def test_reads_no_more_than_it_declares_and_says_what_is_missing(pruner):
    tokens, features = video(pruner, 3, (3, 4))
    for name in pruner.needs:
        with pytest.raises(ValueError, match=name):
            prune(pruner, tokens, replace(features, **{name: None}), possible(pruner, [5, 7, 2], 12))


@every
def test_leaves_its_inputs_and_the_global_random_state_alone(pruner):
    tokens, features = video(pruner, 5, (3, 4))
    wanted = possible(pruner, [12, 0, 5, 1, 7], 12)
    given_tensors = [tokens.embeds, wanted, *(getattr(features, name) for name in pruner.needs)]
    before, state = [tensor.clone() for tensor in given_tensors], torch.get_rng_state()
    packed = pruner.prune(tokens, features, wanted)
    packed.embeds.zero_()
    assert all(torch.equal(old, new) for old, new in zip(before, given_tensors, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_one_video_never_changes_another(pruner):
    first, second = video(pruner, 4, (3, 4), seed=1), video(pruner, 6, (3, 4), seed=2)
    wanted = possible(pruner, [3, 9, 0, 12, 5, 1], 12)
    fresh = prune(pruner, *second, wanted)
    pruner.prune(*first, possible(pruner, [1, 2, 3, 11], 12))
    torch.rand(3)
    assert same(pruner.prune(*second, wanted), fresh)


@every
def test_nan_in_a_feature_is_refused(pruner):
    tokens, features = video(pruner, 3, (3, 4))
    for name in pruner.needs:
        poisoned = getattr(features, name).clone()
        poisoned[1] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            prune(pruner, tokens, replace(features, **{name: poisoned}), possible(pruner, [5, 7, 2], 12))


@every
@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([5, 13, 2], "cannot keep 13 tokens of frame 1, which has 12"),
        ([5, 7, -1], "cannot keep -1 tokens of frame 2, which has 12"),
        ([5, 7], "2 budgets for 3 frames"),
    ],
)
def test_budgets_that_do_not_fit_are_refused(pruner, budgets, message):
    with pytest.raises(ValueError, match=message):
        prune(pruner, *video(pruner, 3, (3, 4)), torch.tensor(budgets))


@every
@settings(max_examples=15)
@given(small=st.lists(st.integers(0, 12), min_size=3, max_size=3), more=st.integers(0, 12))
def test_more_budget_never_drops_a_kept_token_of_a_score_pruner(pruner, small, more):
    if not isinstance(pruner, ScorePruner):
        return
    tokens, features = video(pruner, 3, (3, 4))
    budgets = torch.tensor(small)
    few = prune(pruner, tokens, features, budgets)
    many = prune(pruner, tokens, features, (budgets + more).clamp(max=12))
    assert set((few.frame * 12 + few.patch).tolist()) <= set((many.frame * 12 + many.patch).tolist())


@every
def test_nobody_waits_for_a_gpu_but_a_pruner_that_searches(pruner):
    wanted, (tokens, features) = (
        possible(pruner, [(7 * frame) % 13 for frame in range(20)], 12),
        video(pruner, 20, (3, 4)),
    )
    expected = prune(pruner, tokens, features, wanted)
    put_all(tokens, features)
    with pretend_gpu() as waits, refused_later() as broken:
        packed = pruner.prune(tokens, features, wanted)
    assert all(there(part) for part in vars(packed).values() if isinstance(part, torch.Tensor))
    assert same(packed, expected) and not any(frames.any() for frames, _ in broken)
    assert bool(waits) == pruner.searches, waits


@every
def test_what_is_refused_later_is_refused_with_what_is_kept(pruner):
    tokens, features = video(pruner, 3, (3, 4))
    for name in pruner.needs if not pruner.searches else ():
        poisoned = getattr(features, name).clone()
        poisoned[1] = torch.nan
        with refused_later() as broken:
            packed = pruner.prune(tokens, replace(features, **{name: poisoned}), possible(pruner, [5, 7, 2], 12))
        with pytest.raises(ValueError, match="NaN"):
            land(packed, broken)


@pytest.mark.gpu
@every
def test_a_gpu_keeps_what_the_cpu_keeps(pruner):
    wanted, (tokens, features) = (
        possible(pruner, [(7 * frame) % 13 for frame in range(20)], 12),
        video(pruner, 20, (3, 4)),
    )
    expected, there = prune(pruner, tokens, features, wanted), replace(tokens, embeds=tokens.embeds.cuda())
    moved = replace(features, **{name: getattr(features, name).cuda() for name in pruner.needs})
    pruner.prune(there, moved, wanted)  # loads
    with reported_waits() as waits, refused_later():
        packed = pruner.prune(there, moved, wanted)
    assert packed.embeds.is_cuda and packed.frame.is_cuda
    assert torch.equal(packed.frame.cpu(), expected.frame) and torch.equal(packed.patch.cpu(), expected.patch)
    torch.testing.assert_close(packed.embeds.cpu(), expected.embeds, rtol=1e-4, atol=1e-4)
    assert bool(waits) <= pruner.searches, waits
