"""What every pruner promises, checked for each of them by name."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmms_kvtp.pruners.base import ScorePruner, TokenPruner
from lmms_kvtp.resolve import available, resolve
from lmms_kvtp.types import FEATURES, FrameFeatures, FrameTokens, PackedTokens

PRUNERS = [resolve("lmms_kvtp.pruners", name, TokenPruner) for name in available("lmms_kvtp.pruners")]
every = pytest.mark.parametrize("cls", PRUNERS, ids=lambda cls: cls.__name__)
WIDTHS = {"image": 5, "keys": 6, "patch_text": 5}


def name_of(cls: type[TokenPruner]) -> str:
    return cls.__module__.rpartition(".")[2]


def video(
    cls: type[TokenPruner], frames: int, grid: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float32
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
    return tokens, FrameFeatures(times=torch.arange(frames).float(), **{name: made[name] for name in cls.needs})


def possible(cls: type[TokenPruner], budgets: list[int], patches: int) -> torch.Tensor:
    """The budgets, made whole frames for the pruner that knows nothing else."""
    if name_of(cls) == "none":
        budgets = [patches * (2 * budget >= patches) for budget in budgets]
    return torch.tensor(budgets)


def prune(cls: type[TokenPruner], tokens: FrameTokens, features: FrameFeatures, budgets: torch.Tensor) -> PackedTokens:
    return cls().prune(tokens, features, budgets)


def same(first: PackedTokens, second: PackedTokens) -> bool:
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(PackedTokens)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def check_packed(cls: type[TokenPruner], packed: PackedTokens, tokens: FrameTokens, budgets: torch.Tensor) -> None:
    """Counts, order and shapes."""
    if cls.scope == "frame":
        assert packed.counts().tolist() == budgets.tolist()
    assert len(packed.embeds) == len(packed.frame) == len(packed.patch) == len(packed.size) == budgets.sum()
    assert packed.embeds.dtype == tokens.embeds.dtype and packed.embeds.shape[1] == tokens.embeds.shape[2]
    assert packed.grid == tokens.grid and packed.num_frames == tokens.num_frames
    assert not torch.isnan(packed.embeds).any()
    cells = packed.frame * tokens.capacity + packed.patch
    steps = cells.diff()
    assert (steps > 0).all() if cls.scope == "frame" else (steps >= 0).all()
    assert len(cells) == 0 or (packed.patch.min() >= 0 and packed.patch.max() < tokens.capacity)
    assert (packed.size > 0).all()


@every
@settings(max_examples=15)
@given(budgets=st.lists(st.integers(0, 12), min_size=1, max_size=7))
def test_keeps_exactly_the_budget_in_raster_order(cls, budgets):
    tokens, features = video(cls, len(budgets), (3, 4), seed=sum(budgets))
    wanted = possible(cls, budgets, 12)
    check_packed(cls, prune(cls, tokens, features, wanted), tokens, wanted)


@every
@pytest.mark.parametrize(("frames", "grid"), [(1, (9, 9)), (2, (13, 13)), (17, (14, 14)), (3, (5, 2)), (2, (1, 1))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_works_on_any_grid_and_precision(cls, frames, grid, dtype):
    tokens, features = video(cls, frames, grid, seed=frames, dtype=dtype)
    patches = grid[0] * grid[1]
    wanted = possible(cls, [(7 * frame + patches // 5 + 1) % (patches + 1) for frame in range(frames)], patches)
    check_packed(cls, prune(cls, tokens, features, wanted), tokens, wanted)


@every
def test_works_on_256_frames(cls):
    tokens, features = video(cls, 256, (2, 3))
    wanted = possible(cls, [frame % 7 for frame in range(256)], 6)
    check_packed(cls, prune(cls, tokens, features, wanted), tokens, wanted)


@every
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_frames_keep_their_budget(cls, value):
    tokens, features = video(cls, 5, (3, 4))
    flat = {name: torch.full_like(getattr(features, name), value) for name in cls.needs}
    wanted = possible(cls, [12, 0, 5, 1, 7], 12)
    constant = replace(tokens, embeds=torch.full_like(tokens.embeds, value))
    check_packed(cls, prune(cls, constant, replace(features, **flat), wanted), constant, wanted)


@every
def test_full_budgets_change_nothing_where_that_is_declared(cls):
    tokens, features = video(cls, 5, (3, 4))
    packed = prune(cls, tokens, features, torch.full((5,), 12))
    assert torch.equal(packed.frame * 12 + packed.patch, torch.arange(60))
    assert torch.equal(packed.embeds, tokens.embeds.flatten(0, 1)) == cls.identity_at_full


@every
@settings(max_examples=15)
@given(budgets=st.lists(st.integers(1, 12), min_size=1, max_size=7))
def test_nothing_is_lost_where_that_is_declared(cls, budgets):
    if not cls.conserves_mass:
        return
    tokens, features = video(cls, len(budgets), (3, 4), seed=len(budgets))
    wanted = possible(cls, budgets, 12)
    packed = prune(cls, tokens, features, wanted)
    mass = packed.size[:, None] * packed.embeds
    if cls.scope == "video":
        assert packed.size.sum() == 12 * len(budgets)
        torch.testing.assert_close(mass.sum(dim=0), tokens.embeds.sum(dim=(0, 1)), rtol=1e-4, atol=1e-4)
        return
    alive = (wanted > 0).float()
    sizes = torch.zeros(len(budgets)).index_add(0, packed.frame, packed.size)
    assert torch.equal(sizes, alive * 12)
    sums = torch.zeros(len(budgets), 8).index_add(0, packed.frame, mass)
    torch.testing.assert_close(sums, tokens.embeds.sum(dim=1) * alive[:, None], rtol=1e-4, atol=1e-4)


@every
def test_reads_no_more_than_it_declares_and_says_what_is_missing(cls):
    tokens, features = video(cls, 3, (3, 4))
    for name in cls.needs:
        with pytest.raises(ValueError, match=name):
            prune(cls, tokens, replace(features, **{name: None}), possible(cls, [5, 7, 2], 12))


@every
def test_leaves_its_inputs_and_the_global_random_state_alone(cls):
    tokens, features = video(cls, 5, (3, 4))
    wanted = possible(cls, [12, 0, 5, 1, 7], 12)
    given_tensors = [tokens.embeds, wanted, *(getattr(features, name) for name in cls.needs)]
    before, state = [tensor.clone() for tensor in given_tensors], torch.get_rng_state()
    packed = cls().prune(tokens, features, wanted)
    packed.embeds.zero_()
    assert all(torch.equal(old, new) for old, new in zip(before, given_tensors, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_one_video_never_changes_another(cls):
    first, second = video(cls, 4, (3, 4), seed=1), video(cls, 6, (3, 4), seed=2)
    wanted = possible(cls, [3, 9, 0, 12, 5, 1], 12)
    fresh = prune(cls, *second, wanted)
    pruner = cls()
    pruner.prune(*first, possible(cls, [1, 2, 3, 11], 12))
    torch.rand(3)
    assert same(pruner.prune(*second, wanted), fresh)


@every
def test_nan_in_a_feature_is_refused(cls):
    tokens, features = video(cls, 3, (3, 4))
    for name in cls.needs:
        poisoned = getattr(features, name).clone()
        poisoned[1] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            prune(cls, tokens, replace(features, **{name: poisoned}), possible(cls, [5, 7, 2], 12))


@every
@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([5, 13, 2], "cannot keep 13 tokens of frame 1, which has 12"),
        ([5, 7, -1], "cannot keep -1 tokens of frame 2, which has 12"),
        ([5, 7], "2 budgets for 3 frames"),
    ],
)
def test_budgets_that_do_not_fit_are_refused(cls, budgets, message):
    with pytest.raises(ValueError, match=message):
        prune(cls, *video(cls, 3, (3, 4)), torch.tensor(budgets))


@every
@settings(max_examples=15)
@given(small=st.lists(st.integers(0, 12), min_size=3, max_size=3), more=st.integers(0, 12))
def test_more_budget_never_drops_a_kept_token_of_a_score_pruner(cls, small, more):
    if not issubclass(cls, ScorePruner):
        return
    tokens, features = video(cls, 3, (3, 4))
    budgets = torch.tensor(small)
    few = prune(cls, tokens, features, budgets)
    many = prune(cls, tokens, features, (budgets + more).clamp(max=12))
    assert set((few.frame * 12 + few.patch).tolist()) <= set((many.frame * 12 + many.patch).tolist())
