import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lmms_kvtp.scorers.parts.fusion import FusionHead, clips, pool_clips

GOLDENS = Path(__file__).parents[2] / "goldens"
TAUS = {"tau_init": (0.0, 0.0), "tau_set": (-0.7, -1.1)}


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDENS / "kvtp_predictor.npz").items()}


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("taus", TAUS)
def test_views_equal_the_reference(golden, taus):
    views = FusionHead(log_tau=torch.tensor(TAUS[taus])).views(golden["image_features"])
    for view, name in zip(views, ["frame", "local", "global"], strict=True):
        close(view, golden[f"fusion_{taus}/{name}"])


def test_clip_pooling_equals_the_reference(golden):
    close(pool_clips(golden["pool_in"], 8), golden["softmax_pool_out"])
    close(pool_clips(golden["pool_in"], 8, "max"), golden["max_pool_out"])


def test_views_equal_a_loop_over_frames():
    frames = torch.randn(7, 5, generator=torch.manual_seed(2))
    head = FusionHead(clip_size=3, log_tau=torch.tensor([-1.0, -2.0]))
    units = frames / frames.norm(dim=1, keepdim=True)
    for index in range(7):
        others = [j for j in range(7) if j // 3 == index // 3]
        local = (units[others] @ units[index] / (np.exp(-1.0) * 5**0.5)).softmax(0) @ frames[others]
        whole = (units @ units[index] / (np.exp(-2.0) * 5**0.5)).softmax(0) @ frames
        wanted = [view / view.norm() for view in (frames[index], local, whole)]
        torch.testing.assert_close([view[index] for view in head.views(frames)], wanted, atol=1e-5, rtol=0)


def test_raw_queries_compare_at_the_frames_own_length():
    frames = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    _, _, whole = FusionHead(queries="raw").views(frames)
    near = torch.tensor([3 / 2**0.5, 0.0]).softmax(0)
    wanted = near @ frames
    torch.testing.assert_close(whole[0], wanted / wanted.norm(), atol=1e-5, rtol=0)


def test_clips_of_one_frame_show_the_frame_itself():
    frames = torch.randn(4, 3, generator=torch.manual_seed(2))
    own, local, _ = FusionHead(clip_size=1).views(frames)
    torch.testing.assert_close(own, local)


def test_the_last_clip_may_be_short():
    assert clips(7, 3).tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_logits_are_mixed_by_the_papers_weights():
    ones = [torch.full((1, 2), value) for value in (1.0, 10.0, 100.0)]
    assert FusionHead(local_weight=0.25, global_weight=0.5).mix(ones).tolist() == [[52.75, 52.75]]


def test_a_head_comes_back_from_its_files(tmp_path):
    head = FusionHead(5, 0.2, 0.3, "raw", torch.tensor([0.5, -0.25]))
    head.save(tmp_path)
    found = FusionHead.load(tmp_path / "fusion.json", tmp_path / "fusion.safetensors")
    assert found == head and found.log_tau.tolist() == [0.5, -0.25]


def test_offsets_are_added_to_frames_in_their_lengths_and_mixed_between_anchors():
    frames = torch.randn(5, 3, generator=torch.manual_seed(2)) * 7
    offsets = torch.randn(3, 3, generator=torch.manual_seed(3))
    between = [offsets[0], (offsets[0] + offsets[1]) / 2, offsets[1], (offsets[1] + offsets[2]) / 2, offsets[2]]
    placed = torch.stack([frame + frame.norm() * offset for frame, offset in zip(frames, between, strict=True)])
    found = FusionHead(clip_size=2, anchors=3, offsets=offsets).views(frames)
    torch.testing.assert_close(found, FusionHead(clip_size=2).views(placed), atol=1e-5, rtol=0)
    only = FusionHead(anchors=3, offsets=offsets).views(frames[:1])[0]
    torch.testing.assert_close(only, torch.nn.functional.normalize(placed[:1], dim=1), atol=1e-5, rtol=0)


def test_anchors_that_learned_nothing_yet_change_nothing():
    frames = torch.randn(5, 3, generator=torch.manual_seed(2))
    wanted = FusionHead().views(frames)
    for head in (FusionHead(anchors=4), FusionHead(anchors=4, offsets=torch.zeros(4, 3))):
        assert all(torch.equal(view, same) for view, same in zip(head.views(frames), wanted, strict=True))


def test_offsets_come_back_and_know_the_width_of_their_frames(tmp_path):
    offsets = torch.randn(3, 4, generator=torch.manual_seed(3))
    FusionHead(anchors=3, offsets=offsets).save(tmp_path)
    found = FusionHead.load(tmp_path / "fusion.json", tmp_path / "fusion.safetensors")
    assert found.anchors == 3 and torch.equal(found.offsets, offsets)
    with pytest.raises(ValueError, match="offsets of width 4 cannot read frames of width 6"):
        found.views(torch.randn(5, 6))


@pytest.mark.parametrize("offsets", [torch.zeros(3, 4), torch.full((2, 4), torch.nan)], ids=["count", "nan"])
def test_offsets_that_do_not_fit_their_anchors_are_refused(tmp_path, offsets):
    FusionHead(anchors=2, offsets=offsets).save(tmp_path)
    with pytest.raises(ValueError, match=r"no fusion head in .*: \d offsets for 2 anchors, or one that is no number"):
        FusionHead.load(tmp_path / "fusion.json", tmp_path / "fusion.safetensors")


@pytest.mark.parametrize("damage", ["weights", "settings", "shape", "nan", "field"])
def test_damaged_files_are_named(tmp_path, damage):
    FusionHead().save(tmp_path)
    settings, weights = tmp_path / "fusion.json", tmp_path / "fusion.safetensors"
    if damage == "weights":
        weights.write_bytes(b"short")
    elif damage == "settings":
        settings.write_text("{")
    elif damage == "field":
        settings.write_text(json.dumps({"theta": 1}))
    else:
        save_file({"log_tau": torch.zeros(3) if damage == "shape" else torch.full((2,), torch.nan)}, weights)
    with pytest.raises(ValueError, match=r"no fusion head in .*fusion\.json and .*fusion\.safetensors"):
        FusionHead.load(settings, weights)


@pytest.mark.parametrize(
    "bad", [{"clip_size": 0}, {"local_weight": -0.1}, {"local_weight": 0.6, "global_weight": 0.5}, {"anchors": 1}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=r"is not a number of frames|are not shares|cannot tell places apart"):
        FusionHead(**bad)
