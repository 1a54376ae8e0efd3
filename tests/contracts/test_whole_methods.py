"""What every component promises behind a whole method: identity at 100 %, and answers on videos that say little."""

import pytest
import torch
from helpers.checkpoints import write_tiny
from helpers.small_videos import Clip

from lmms_kvtp.encode import encode
from lmms_kvtp.method import KVTP, Method, build_method, class_of
from lmms_kvtp.pipeline import Prepared, prepare
from lmms_kvtp.presets import names_of
from lmms_kvtp.questions import Question
from lmms_kvtp.types import GenerationOptions
from lmms_kvtp.vlms.llava_video import LlavaVideo, LoadOptions, load_llava_video

PRUNERS, ENCODERS = names_of("pruner"), names_of("encoder")
SCORERS = [name for name in names_of("scorer") if name != "shared"]
"""All but those whose encoder has no weights before it is trained."""
SMALL = {
    "fastv": {"layer": "1"},
    "holitom": {"layer": "1"},
    "prunevid": {"layer": "1"},
    "pyramiddrop": {"layers": "1:2:3"},
    "none": {},
}
"""Layers of a model of four."""
QUESTION = Question("What happens?", stem="What happens?", spans=((0.5, 1.5, 5.0),))


def black(frames: int) -> Clip:
    clip = Clip(frames)
    clip.rgb.zero_()
    return clip


DULL = {"one frame": Clip(1), "one black frame": black(1), "black frames": black(5)}
"""Too little to choose from: no neighbours in time, all similarities equal, fewer frames than scenes."""
on_dull = pytest.mark.parametrize("clip", DULL.values(), ids=DULL)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> LlavaVideo:
    folder = write_tiny(tmp_path_factory.mktemp("models") / "random")
    return load_llava_video(str(folder), LoadOptions(device="cpu"))


def method(vlm: LlavaVideo, **settings: str) -> Method:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return build_method(named, {**KVTP, "encoder.pretrained": vlm.default_encoder})


def ready(vlm: LlavaVideo, chosen: Method, clip: Clip) -> Prepared:
    return prepare(vlm, chosen, [encode(vlm, chosen, clip)], QUESTION)


def check(vlm: LlavaVideo, chosen: Method, clip: Clip) -> None:
    """The exact total enters the model, and its logits are numbers."""
    prepared = ready(vlm, chosen, clip)
    kept = sum(len(packed.embeds) for packed in prepared.packed)
    total = chosen.total(len(clip.times), vlm.pool.grid[0] * vlm.pool.grid[1])
    assert kept == total or (kept and not chosen.pruner.exact)
    with torch.inference_mode():
        logits = vlm.next_token_logits(prepared.prompt, chosen.layer_pruning.stages())
    assert torch.isfinite(logits).all()


@torch.inference_mode()
@pytest.mark.parametrize("name", PRUNERS)
def test_keeping_all_gives_the_unpruned_logits_bit_for_bit_where_that_is_declared(vlm, name):
    clip = Clip(4)
    whole = vlm.next_token_logits(ready(vlm, method(vlm, pruner="none", keep_ratio="1"), clip).prompt)
    kept = vlm.next_token_logits(ready(vlm, method(vlm, pruner=name, keep_ratio="1"), clip).prompt)
    assert torch.equal(kept, whole) == class_of("pruner", name).identity_at_full


@on_dull
@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_keeps_its_budget_of_a_video_that_says_little(vlm, name, clip):
    check(vlm, method(vlm, pruner=name, keep_ratio="1" if name == "none" else "0.2"), clip)


@on_dull
@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_reads_a_video_that_says_little(vlm, name, clip):
    check(vlm, method(vlm, scorer=name, pruner="random"), clip)


@on_dull
@pytest.mark.parametrize("name", [name for name in names_of("allocator") if not name.endswith("_release")])
def test_every_allocator_splits_a_video_that_says_little(vlm, name, clip):
    check(vlm, method(vlm, allocator=name, pruner="grid"), clip)


@on_dull
@pytest.mark.parametrize("name", names_of("layer_pruning"))
def test_every_layer_pruner_reads_a_video_that_says_little(vlm, name, clip):
    small = {f"layer_pruning__{field}": value for field, value in SMALL[name].items()}
    chosen = method(vlm, pruner="prumerge", keep_ratio="0.4", layer_pruning=name, **small)
    check(vlm, chosen, clip)
    prompt = ready(vlm, chosen, clip).prompt
    [said] = vlm.generate([prompt], GenerationOptions(max_new_tokens=3), chosen.layer_pruning.stages())
    assert (said.layer_lengths[-1] < prompt.length) == (name != "none")
    assert not any(layer._forward_pre_hooks for layer in vlm.layers)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "none"])
def test_a_layer_outside_the_model_is_refused_with_its_layers(vlm, name):
    cls = class_of("layer_pruning", name)
    outside = cls(layers=(1, 2, 4)) if name == "pyramiddrop" else cls(layer=4)
    prompt = ready(vlm, method(vlm), Clip(2)).prompt
    with pytest.raises(ValueError, match="the model has layers 0 to 3"):
        vlm.next_token_logits(prompt, outside.stages())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", PRUNERS)
def test_needs_that_an_encoder_cannot_meet_are_refused_by_name(name, encoder):
    pruner = class_of("pruner", name)
    missing = pruner.needs - class_of("encoder", encoder).provides - {"text", "tokens"}
    settings = {"encoder": encoder, "pruner": name, "scorer": "uniform", "allocator": "uniform"}
    if not missing:
        assert build_method(settings, KVTP).needs == pruner.needs - {"text", "tokens"}
        return
    with pytest.raises(ValueError, match=rf"{pruner.__name__} need {', '.join(sorted(missing))}, which encoder"):
        build_method(settings, KVTP)


@pytest.mark.parametrize("name", ["fastvid", "flashvid"])
def test_a_video_of_fewer_frames_than_scenes_has_a_scene_for_each_frame(vlm, name):
    chosen = {scenes: method(vlm, pruner=name, pruner__scenes=scenes) for scenes in ("3", "8")}
    three, eight = (ready(vlm, each, Clip(3)).packed[0] for each in chosen.values())
    assert torch.equal(three.embeds, eight.embeds) and three.counts().tolist() == eight.counts().tolist()
