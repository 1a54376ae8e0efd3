"""The rows of the papers' tables as model ids."""

from pathlib import Path

import numpy as np
import pytest
from helpers import checkpoints
from lmms_eval import models
from lmms_eval.api.instance import Instance
from PIL import Image

from lmms_kvtp.encoders.own import OwnTower
from lmms_kvtp.harness.plugin import MODELS
from lmms_kvtp.model_wrappers.baselines import LlavaOnevisionKvtp
from lmms_kvtp.model_wrappers.llava_video import LlavaVideoKvtp
from lmms_kvtp.presets import word_of
from lmms_kvtp.run.answerer import SampleError
from lmms_kvtp.vlms.checkpoint.config import CheckpointError

ROWS = {
    "llava_video": ("uniform", "uniform", "none", "none", 1.0),
    "llava_video_random": ("uniform", "uniform", "random", "none", 0.2),
    "llava_video_tome": ("uniform", "uniform", "tome", "none", 0.2),
    "llava_video_prumerge": ("uniform", "uniform", "prumerge", "none", 0.2),
    "llava_video_fastv": ("uniform", "uniform", "none", "fastv", 1.0),
    "llava_video_keyvideollm": ("similarity", "hard", "grid", "none", 0.2),
    "llava_video_prunevid": ("uniform", "uniform", "prunevid", "prunevid", 0.5),
    "llava_video_kvtp": ("similarity", "softmax", "prumerge", "none", 0.2),
}
OWN = ("tome", "prumerge")
"""Pruners that read the model's own tower where the scorer reads no frames."""
LAYERS = {"layer_pruning.layer": 1}
"""The random model has fewer layers than PruneVid's default counts on."""


def build(name, checkpoint, **settings):
    cls = models.get_model(name)
    return cls(pretrained=str(checkpoint), device="cpu", journal="none", batch_size=1, **settings)


def parts(method):
    described = method.describe()
    return (
        *(word_of(part, described) for part in ("scorer", "allocator", "pruner", "layer_pruning")),
        method.keep_ratio,
    )


def test_every_id_is_tested_and_stands_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines()]
    documented = {row[0]: row for row in rows if row[0] in MODELS and len(row) == 5}
    for name, (scorer, allocator, pruner, layers, ratio) in ROWS.items():
        scorer = "kvtp" if name == "llava_video_kvtp" else scorer  # which without a predictor is similarity
        encoder = "own" if pruner in OWN and scorer == "uniform" else "siglip"
        assert documented[name] == [name, f"{encoder}, {scorer}, {allocator}", pruner, f"{ratio:g}", layers]
    assert set(ROWS) == {name for name in MODELS if name.startswith("llava_video")}


@pytest.mark.parametrize("name", ROWS)
def test_an_id_is_its_method(name, checkpoint):
    method = build(name, checkpoint, **(LAYERS if name.endswith("prunevid") else {})).built.method
    assert parts(method) == ROWS[name]
    if name in ("llava_video_tome", "llava_video_prumerge"):
        assert isinstance(method.encoder, OwnTower)
    else:
        assert method.encoder.pretrained == str(Path(checkpoint) / "siglip")


def test_arguments_override_what_an_id_fills_in(checkpoint):
    changed = build("llava_video_keyvideollm", checkpoint, keep_ratio=0.3, pruner="random", **{"pruner.seed": 5})
    assert parts(changed.built.method) == ("similarity", "hard", "random", "none", 0.3)
    assert changed.built.method.pruner.seed == 5


def test_a_layer_that_the_model_has_not_is_refused_with_the_way_out(checkpoint):
    with pytest.raises(ValueError, match="before layer 11 with scores of layer 10: the model has layers 0 to 3"):
        build("llava_video_prunevid", checkpoint)


TASK = "some_task"
FULL = {"scorer": "uniform", "allocator": "uniform", "pruner": "none", "keep_ratio": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def onevision(tmp_path_factory):
    """A configuration as LLaVA-OneVision's, which leaves the newline's place to its default."""
    fields = {"mm_newline_position": "one_token", "image_aspect_ratio": "anyres_max_9"}
    fields["image_grid_pinpoints"] = [[66, 66], [66, 132], [132, 66], [132, 132]]
    return checkpoints.write_tiny(tmp_path_factory.mktemp("onevision"), siglip=False, fields=fields)


def asked(model, doc, visual, question):
    model.task_dict[TASK] = {"test": [doc]}
    arguments = (question, {"max_new_tokens": 3}, visual, 0, TASK, "test")
    return Instance("generate_until", arguments, 0, {"task": TASK, "doc_id": 0, "repeats": 1})


def test_a_video_has_one_newline_behind_it(onevision, lookalike, tmp_path):
    video = lookalike.write_video(tmp_path / "clip.mp4")
    model = LlavaOnevisionKvtp(pretrained=str(onevision), journal="none", **FULL)
    request = asked(model, {"video": str(video)}, lambda doc: [doc["video"]], "What?")
    [answer] = model.generate_until([request])
    counts = answer.token_counts.to_dict()
    assert (counts["num_frames"], counts["tokens_kept"], counts["tokens_structural"]) == (6, 6 * 25, 1)


def test_its_default_is_its_own_checkpoint(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert MODELS["llava_onevision_kvtp"][0].endswith(".LlavaOnevisionKvtp")
    for model, name in ((LlavaOnevisionKvtp, "llava-onevision-qwen2-7b-ov"), (LlavaVideoKvtp, "LLaVA-Video-7B-Qwen2")):
        with pytest.raises(CheckpointError, match=f"'lmms-lab/{name}' is no folder here"):
            model(**FULL)


def test_a_split_model_runs_in_one_process(onevision, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", property(lambda self: 2))
    with pytest.raises(ValueError, match="device_map=auto splits the model of one process, and 2 were started"):
        LlavaOnevisionKvtp(pretrained=str(onevision), device_map="auto", **FULL)


@pytest.mark.parametrize(("position", "newlines"), [("grid", 30), ("frame", 6), ("one_token", 1), ("no_token", 0)])
def test_every_newline_of_the_family_can_be_asked_for(onevision, lookalike, tmp_path, position, newlines):
    video = lookalike.write_video(tmp_path / "clip.mp4")
    model = LlavaOnevisionKvtp(pretrained=str(onevision), mm_newline_position=position, journal="none", **FULL)
    [answer] = model.generate_until([asked(model, {"v": str(video)}, lambda doc: [doc["v"]], "What?")])
    assert answer.token_counts.to_dict()["tokens_structural"] == newlines


def photo(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


def counts_of(model, visuals):
    [answer] = model.generate_until([asked(model, {"v": visuals}, lambda doc: doc["v"], "What?")])
    return answer.token_counts.to_dict()


def test_one_image_is_seen_in_tiles_and_several_as_squares(onevision, tmp_path):
    """9 x 9 patches of the whole and of each of four tiles; a file is an image as one in memory is."""
    model = LlavaOnevisionKvtp(pretrained=str(onevision), journal="none", **FULL | {"keep_ratio": 0.2})
    one = counts_of(model, [photo(130, 130)])
    assert (one["num_frames"], one["tokens_kept"], one["tokens_structural"]) == (1, 5 * 81, 18)
    two = counts_of(model, [photo(130, 60), photo(20, 70)])
    assert (two["num_frames"], two["tokens_kept"], two["tokens_structural"]) == (2, 2 * 81, 2)
    photo(130, 130).save(tmp_path / "photo.png")
    file = counts_of(model, [str(tmp_path / "photo.png")])
    assert file["tokens_kept"] == file["tokens_before"] == 5 * 81


def test_images_are_frames_where_that_is_asked_for_or_the_model_id_is_a_videos(onevision):
    for kind, more in ((LlavaOnevisionKvtp, {"images": "frames"}), (LlavaVideoKvtp, {})):
        model = kind(pretrained=str(onevision), journal="none", **FULL | more)
        counts = counts_of(model, [photo(130, 60), photo(130, 60)])
        assert (counts["num_frames"], counts["tokens_kept"]) == (2, 2 * 25)


def test_a_checkpoint_without_tiles_refuses_images_and_says_what_to_set(checkpoint):
    model = LlavaOnevisionKvtp(pretrained=str(checkpoint), journal="none", **FULL)
    with pytest.raises(SampleError, match=r"images=tiles: .* has no way of its own with images.*images=frames shows"):
        counts_of(model, [photo(130, 60)])
