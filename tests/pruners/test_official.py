"""Parity with what the authors' released code keeps (tests/goldens/pruners_official), and smallest reproductions."""

import json
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmms_kvtp.allocators.uniform import EqualBudgets
from lmms_kvtp.pruners.evs import EfficientVideoSampling
from lmms_kvtp.pruners.fastvid import FastVid
from lmms_kvtp.pruners.flashvid import FlashVid
from lmms_kvtp.pruners.flashvid_release import FlashVidRelease
from lmms_kvtp.pruners.holitom import HoliTom, windows
from lmms_kvtp.pruners.maxmin import MaxMin
from lmms_kvtp.pruners.parts.trees import TreePruner
from lmms_kvtp.pruners.visionzip import VisionZip
from lmms_kvtp.types import FrameFeatures, FrameTokens, PackedTokens

FOLDER = Path(__file__).parents[1] / "goldens" / "pruners_official"
METHODS = ("evs", "fastvid", "flashvid", "holitom", "maxmin", "visionzip")
ABOUT = {method: json.loads((FOLDER / f"{method}.json").read_text()) for method in METHODS}


class Case:
    """What the released code read and answered, and its settings."""

    def __init__(self, method: str, name: str) -> None:
        self.set: dict[str, Any] = ABOUT[method]["cases"][name]
        self.arrays, divide = np.load(FOLDER / f"{method}.npz"), ABOUT[method]["divide_by"]
        self.path, self.divide = name, divide
        self.tokens = FrameTokens(self["in/tokens"], tuple(self.set["grid"]))

    def __getitem__(self, name: str) -> torch.Tensor:
        array = self.arrays[f"{self.path}/{name}"]
        by = self.divide.get(f"{self.path}/{name}")
        floats = by or array.dtype.kind == "f"
        return torch.from_numpy(array.astype(np.float32) / np.float32(by or 1) if floats else array.astype(np.int64))

    def budgets(self, each: int | None = None, total: int = 0) -> torch.Tensor:
        frames, capacity = self.tokens.num_frames, self.tokens.capacity
        if each is not None:
            return torch.full((frames,), each)
        return EqualBudgets().allocate(torch.zeros(frames), total, capacity)

    def prune(self, pruner: Any, budgets: torch.Tensor, **features: torch.Tensor) -> PackedTokens:
        return pruner.prune(
            self.tokens, FrameFeatures(times=torch.arange(self.tokens.num_frames).float(), **features), budgets
        )

    def is_kept(self, packed: PackedTokens, embeds: torch.Tensor | None = None) -> None:
        assert cells(packed) == self["out/kept"].tolist()
        wanted = self.tokens.embeds.flatten(0, 1)[self["out/kept"]] if embeds is None else embeds
        torch.testing.assert_close(packed.embeds, wanted, rtol=0, atol=1e-5 * max(1, float(wanted.abs().max())))


def cases(method: str) -> pytest.MarkDecorator:
    known = [Case(method, name) for name in ABOUT[method]["cases"]]
    return pytest.mark.parametrize("case", known, ids=lambda case: case.path)


def cells(packed: PackedTokens) -> list[int]:
    return (packed.frame * packed.grid[0] * packed.grid[1] + packed.patch).tolist()


@cases("fastvid")
def test_fastvid_is_the_release(case):
    given = case.set
    pruner = FastVid(given["c"], given["tau"], context=given["d"], interval=given["p"], anchor_weight=given["beta"])
    features = {"image": case["in/image"], "probe_attention": case["in/attention"]}
    budgets = case.budgets(int(case.tokens.capacity * given["ratio"]))
    case.is_kept(case.prune(pruner, budgets, **features), case["out/embeds"])
    shares = [pruner._share(part, case.tokens.capacity) for part in budgets.split(case["out/scene_lengths"].tolist())]
    for name, counts in zip(("salient", "anchor"), zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.cat(counts), case[f"out/{name}_count"])


def test_fastvid_counts_anchor_frames_from_the_end_of_a_scene():
    assert FastVid()._share(torch.tensor([10] * 6), 169)[1].tolist() == [0, 12, 0, 0, 0, 12]


def test_fastvid_takes_a_token_up_once_in_each_frame_with_anchors():
    x = torch.tensor([[[1.0, 0.0], [0.8, 0.2]], [[0.0, 1.0], [0.2, 0.8]]])
    features = FrameFeatures(torch.arange(2.0), image=torch.ones(2, 3), probe_attention=torch.zeros(2, 2))
    pruner = FastVid(scenes=1, context=1.0, interval=1)
    packed = pruner.prune(FrameTokens(x, (1, 2)), features, torch.tensor([1, 1]))
    rest = torch.stack([x[0, 1], x[1, 0], x[1, 1]]).mean(dim=0)
    torch.testing.assert_close(packed.embeds[0], 0.6 * x[0, 0] + 0.4 * rest)
    assert packed.size.tolist() == [4, 4] and packed.owner.tolist() == [[0, 0], [1, 1]]


@cases("holitom")
def test_holitom_is_the_release(case):
    pruner = HoliTom(case.set["tau"], case.set["beta"], case.set["K"])
    packed = case.prune(pruner, case.budgets(total=len(case["out/kept"])), column_attention=case["in/attention"])
    case.is_kept(packed, case["out/embeds"])
    alike = torch.cat([torch.zeros(1, case.tokens.capacity), case["out/cosine"]])
    found = [[start, stop - 1] for start, stop in pairwise(windows(alike, case.set["tau"]))]
    assert found == case["out/windows"].tolist()


@pytest.mark.parametrize(
    ("alike", "starts"),
    [([[0.0, 0.0], [0.9, 0.9], [0.9, 0.5], [0.5, 0.5]], [0, 2, 3, 4]), ([[0.0, 0.0]] * 4, [0, 1, 2, 3, 4])],
)
def test_holitom_takes_the_shortest_last_window_of_equal_cuts(alike, starts):
    assert windows(torch.tensor(alike), 0.8) == starts


def test_holitom_spreads_less_than_a_token_per_frame_as_the_budgets_say():
    tokens = FrameTokens(torch.randn(8, 6, 4, generator=torch.Generator().manual_seed(1)), (2, 3))
    features = FrameFeatures(torch.arange(8.0), column_attention=torch.rand(8, 6))
    assert HoliTom().prune(tokens, features, torch.tensor([0, 1, 0, 1] * 2)).counts().tolist() == [0, 1, 0, 1] * 2


@cases("visionzip")
def test_visionzip_is_the_release_in_raster_order(case):
    budget = case.set["dominant"] + case.set["contextual"]
    attention = case["in/class_attention"].sum(dim=1)
    wanted = case.tokens.embeds.clone()
    frames = torch.arange(len(wanted))[:, None]
    wanted[frames, case["out/anchor"]] = case["out/contextual"]
    pruner = VisionZip(case.set["contextual"] / budget)
    for name in ("layer_keys", "keys"):
        packed = case.prune(pruner, case.budgets(budget), column_attention=attention, **{name: case["in/keys"]})
        case.is_kept(packed, wanted.flatten(0, 1)[case["out/kept"]])
        into = case["out/goes_into"]
        owner = torch.where(into < 0, torch.arange(into.shape[1]), case["out/anchor"].gather(1, into.clamp_min(0)))
        assert torch.equal(packed.patch[packed.owner], owner)


def flashvid(case: Case, cls: type[TreePruner]) -> PackedTokens:
    given = case.set
    pruner = cls(
        given["min_segments"], given["segment_threshold"], given["alpha"], given["selection"], given["tree_threshold"]
    )
    each = ceil(case.tokens.capacity * given["ratio"] * given["expansion"])
    return case.prune(pruner, case.budgets(each), column_attention=case["in/attention"])


def in_any_order(cells: list[int], rows: torch.Tensor) -> torch.Tensor:
    """Rows in order of cells; of two at one cell, in order of their sums."""
    order = sorted(range(len(cells)), key=lambda i: (cells[i], float(rows[i].sum())))
    return rows[order]


@cases("flashvid")
def test_flashvid_release_is_the_release(case):
    packed = flashvid(case, FlashVidRelease)
    kept, wanted = case["out/kept"].tolist(), case["out/embeds"]
    assert cells(packed) == kept
    rows = in_any_order(kept, packed.embeds)  # the release's order of a token's two places is its sort's
    torch.testing.assert_close(rows, in_any_order(kept, wanted), rtol=0, atol=1e-5 * float(wanted.abs().max()))


@dataclass(frozen=True)
class RoundedUp(TreePruner):
    """FlashVID with the release's counts of clusters, and no token twice."""

    clusters = FlashVidRelease.clusters


@pytest.mark.parametrize("name", ["scenes", "long_still", "plain_attention"])
def test_flashvid_is_the_release_but_for_its_counts_where_that_keeps_no_token_twice(name):
    case = Case("flashvid", name)
    case.is_kept(flashvid(case, RoundedUp), case["out/embeds"])


@cases("flashvid")
def test_flashvid_keeps_exact_budgets_and_the_selected_tokens_of_the_release(case):
    packed = flashvid(case, FlashVid)
    each, lengths = int(case["out/num_salient"] + case["out/num_rest"]), case["out/scene_lengths"].tolist()
    assert [int(part.sum()) for part in packed.counts().split(lengths)] == [each * length for length in lengths]
    kept = cells(packed)
    assert len(set(kept)) == len(kept) and set(case["out/salient"].tolist()) <= set(kept)
    assert len(set(kept) & set(case["out/kept"].tolist())) >= 0.98 * min(len(kept), len(set(case["out/kept"].tolist())))


def test_flashvid_s_trees_are_sums_over_the_root_s_own_joints_and_one():
    scene = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(4))
    features = FrameFeatures(torch.arange(6.0), column_attention=torch.rand(6, 4))
    for cls in (FlashVid, FlashVidRelease):
        pruner = cls(scenes=1, salient=0.0)
        packed = pruner.prune(FrameTokens(scene.expand(6, -1, -1), (2, 2)), features, torch.tensor([1, 1, 1, 1, 0, 0]))
        assert packed.frame.tolist() == [0] * 4
        torch.testing.assert_close(packed.embeds, 3 * scene[0])


def test_flashvid_joins_nothing_where_all_tokens_may_stay():
    scene = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(4)).expand(6, -1, -1)
    features = FrameFeatures(torch.arange(6.0), column_attention=torch.rand(6, 4))
    packed = FlashVid(scenes=1).prune(FrameTokens(scene, (2, 2)), features, torch.full((6,), 4))
    assert torch.equal(packed.embeds, scene.flatten(0, 1))


def test_flashvid_release_picks_a_token_again_where_no_other_suits_its_scene():
    x = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [-0.1, -0.2], [-0.3, 0.0]]])
    features = FrameFeatures(torch.arange(1.0), column_attention=torch.tensor([[0.4, 0.0, 0.3, 0.2]]))
    given = FrameTokens(x, (2, 2)), features, torch.tensor([3])
    assert FlashVid(salient=1.0).prune(*given).patch.tolist() == [0, 1, 2]
    assert FlashVidRelease(salient=1.0).prune(*given).patch.tolist() == [0, 0, 0]


@cases("evs")
def test_evs_is_the_release(case):
    case.is_kept(case.prune(EfficientVideoSampling(), case.budgets(total=int(case["out/count"]))))


def test_evs_below_one_frame_keeps_the_first_patches_of_the_first_frame():
    tokens = FrameTokens(torch.randn(8, 16, 4, generator=torch.Generator().manual_seed(1)), (4, 4))
    packed = EfficientVideoSampling().prune(tokens, FrameFeatures(torch.arange(8.0)), torch.ones(8).long())
    assert cells(packed) == list(range(8))


@cases("maxmin")
def test_maxmin_is_the_release_over_all_tokens_of_the_video(case):
    case.is_kept(case.prune(MaxMin(), case.budgets(total=len(case["out/kept"]))))
