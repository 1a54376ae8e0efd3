"""Attention and keys of the model's own tower."""

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import Clip

from lmms_kvtp.encode import encode
from lmms_kvtp.encoders.base import mean_column
from lmms_kvtp.encoders.own import OwnTower
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.method import KVTP, build_method, defaults_of
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> LlavaVideo:
    options = LoadOptions(device="cpu", attn_implementation="eager", vision_batch=3)
    return load_llava_video(str(write_tiny(tmp_path_factory.mktemp("llava"))), options)


def uniform(pruner: str, **settings) -> dict[str, str]:
    return {"scorer": "uniform", "allocator": "uniform", "pruner": pruner, "keep_ratio": "0.5", **settings}


def test_it_gives_the_attention_that_the_last_layer_really_paid_and_its_own_keys(vlm):
    clip, method = Clip(7), build_method(uniform("visionzip"), KVTP)
    assert isinstance(method.encoder, OwnTower)
    found = encode(vlm, method, clip).features
    last = vlm.network.tower.encoder.layers[-1].self_attn
    paid, keys = [], []
    hooks = [
        last.register_forward_hook(lambda module, args, output: paid.append(output[1])),
        last.k_proj.register_forward_hook(lambda module, args, output: keys.append(output)),
    ]
    for frames in clip.chunks():
        vlm.see(frames)
    [hook.remove() for hook in hooks]
    received = torch.cat(paid).mean(dim=(1, 2))  # over heads, then over the patches that pay
    torch.testing.assert_close(found.column_attention, vlm.pool(received[..., None])[..., 0], atol=1e-6, rtol=1e-5)
    by_head = torch.cat(keys).chunk(last.num_heads, dim=2)
    torch.testing.assert_close(found.layer_keys, vlm.pool(torch.stack(by_head).mean(dim=0)), atol=1e-6, rtol=1e-5)
    found = encode(vlm, build_method(uniform("tome"), KVTP), clip).features
    torch.testing.assert_close(found.keys, vlm.pool(torch.cat(keys)), atol=1e-6, rtol=1e-5)


def test_pruners_without_a_question_take_it_and_others_do_not(vlm):
    chosen = {
        name: type(build_method(settings, defaults_of(vlm)).encoder)
        for name, settings in {
            "prumerge": uniform("prumerge"),
            "tome": uniform("tome"),
            "oracle": uniform("prumerge", scorer="oracle", allocator="softmax"),
            "fastvid reads frames": uniform("fastvid"),
            "random reads nothing": uniform("random"),
            "similarity": uniform("prumerge", scorer="similarity"),
            "named": uniform("prumerge", encoder="siglip"),
            "field named": uniform("prumerge", **{"encoder.dtype": "float32"}),
        }.items()
    }
    own = [name for name, cls in chosen.items() if cls is OwnTower]
    assert own == ["prumerge", "tome", "oracle"]
    assert {cls for cls in chosen.values()} == {OwnTower, Siglip}


def test_its_operations_are_those_that_torch_counts_and_the_tower_runs_once(vlm):
    from torch.utils.flop_counter import FlopCounterMode

    patches, width = 81, 24
    with FlopCounterMode(display=False) as counter:
        mean_column(torch.randn(7, patches, width), torch.randn(7, patches, width), 3)
    spent = encode(vlm, build_method(uniform("prumerge"), KVTP), Clip(7)).flops
    assert spent["encoder"] == counter.get_total_flops() == 7 * 2 * patches**2 * width
    assert encode(vlm, build_method(uniform("tome"), KVTP), Clip(7)).flops["encoder"] == 0
    frames = next(Clip(7).chunks())
    with FlopCounterMode(display=False) as counter:
        vlm.see(frames)
    assert spent["vision"] == counter.get_total_flops()


def test_frames_that_the_tower_has_not_seen_are_refused(vlm):
    with pytest.raises(ValueError, match="reads what the model's own tower computed of the frames; run that first"):
        OwnTower().encode(next(Clip(2).chunks()), frozenset({"keys"}), vlm.pool)


def test_a_scorer_of_frames_cannot_read_it():
    with pytest.raises(ValueError, match=r"need .*image.*which encoder OwnTower does not provide"):
        build_method({"scorer": "similarity", "encoder": "own"}, KVTP)
