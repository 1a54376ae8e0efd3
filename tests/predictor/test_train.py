import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.small_predictors import RECIPE, encoder, fresh, videos
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from lmms_kvtp.__main__ import main
from lmms_kvtp.embedded import cache
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.predictor.examples import Example, synthetic
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.predictor.recipe import last_checkpoint
from lmms_kvtp.predictor.train import train_predictor
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.parts.fusion import FusionHead
from lmms_kvtp.shipped import MANIFEST, checked
from lmms_kvtp.types import FrameFeatures


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("predictor")
    return train_predictor(fresh(), videos(12, 2), videos(4, 3), RECIPE, out), out


def test_training_finds_the_key_frames(run):
    report, _ = run
    assert report["validation_after"]["auroc"] > 0.95 > report["validation_before"]["auroc"] + 0.2


def test_questions_on_the_whole_video_are_left_out_and_counted(run):
    assert run[0]["data"]["flat_questions_left_out"] == 12
    assert run[0]["data"]["videos_left_out"] == 0 and run[0]["stopped_by"] is None


def test_the_folder_serves_as_encoder_and_scorer_and_loads_in_plain_transformers(run):
    report, out = run
    tuned, video = Siglip(str(out), device="cpu"), videos(4, 3)[0]
    scores = KVTP().score(FrameFeatures(video.times, video.image), video.example.questions[0], tuned)
    key = video.labels()[0] > 0
    assert scores[key].min() > scores[~key].max()
    assert torch.equal(AutoModel.from_pretrained(out).logit_scale, tuned.model.logit_scale)
    assert KVTP().head(tuned).log_tau.abs().min() > 0
    assert json.loads((out / "training.json").read_text())["recipe"]["seed"] == report["recipe"]["seed"]


def test_the_vision_tower_stays_as_it_was_and_the_text_tower_does_not(run):
    before, after = encoder().model.state_dict(), Siglip(str(run[1]), device="cpu").model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"text_model", "logit_scale", "logit_bias"}


def test_the_best_epoch_is_kept_where_later_ones_are_worse(tmp_path):
    """The validation videos show each thing as another one looks in training, so each epoch is worse than the last."""
    checks = [replace(video, image=-video.image) for video in videos(4, 3)]
    report = train_predictor(fresh(), videos(12, 2), checks, RECIPE, tmp_path)
    recalls = [line["eval_recall"] for line in report["log"] if "eval_recall" in line]
    assert report["validation_after"]["recall"] == max(recalls) > recalls[-1] + 0.05


def test_a_killed_run_goes_on_to_the_same_result(run, tmp_path):
    report, out = run
    assert last_checkpoint(out, RECIPE) == str(newest(out).parent)
    epochs = sorted((out / "epochs").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    (tmp_path / "epochs").mkdir()
    shutil.copytree(epochs[-2], tmp_path / "epochs" / epochs[-2].name)
    shutil.copy(out / "recipe.json", tmp_path)
    state = tmp_path / "epochs" / epochs[-2].name / "trainer_state.json"
    noted = json.loads(state.read_text())
    state.write_text(json.dumps({**noted, "log_history": [*noted["log_history"], {"before the kill": 1.0}]}))
    resumed = train_predictor(fresh(), videos(12, 2), videos(4, 3), RECIPE, tmp_path)
    assert {"before the kill": 1.0} in resumed["log"]  # a run from the start would end as well
    assert resumed["validation_after"] == report["validation_after"]
    ours, theirs = (Siglip(str(folder), device="cpu").model.state_dict() for folder in (tmp_path, out))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_folder_of_another_recipe_is_refused(run):
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        train_predictor(fresh(), videos(12, 2), videos(4, 3), replace(RECIPE, seed=1), run[1])


def test_an_epoch_with_older_names_of_parameters_is_refused(tmp_path):
    (tmp_path / "epochs" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE.plain()))
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        last_checkpoint(tmp_path, RECIPE)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json is not JSON"):
        last_checkpoint(tmp_path, RECIPE)


def test_head_only_training_leaves_both_towers_alone_and_names_lost_videos(tmp_path):
    recipe = replace(RECIPE, parts="head", epochs=1, head=FusionHead(clip_size=4))
    lost, slim_folder = ["v9.mp4: no frame decodes"], tmp_path / "slim"
    report = train_predictor(fresh("head"), videos(3, 2), videos(2, 3), recipe, tmp_path / "whole", lost, slim_folder)
    assert report["data"]["videos_left_out"] == 1 and report["data"]["left_out"] == lost
    tuned, video = Siglip(str(tmp_path / "whole"), device="cpu"), videos(4, 3)[0]
    before, after = encoder().model.state_dict(), tuned.model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"logit_scale", "logit_bias"}
    assert KVTP().head(tuned).clip_size == 4
    assert (tmp_path / "slim" / "text.safetensors").stat().st_size < 1000  # the untuned text tower is named only
    features = FrameFeatures(video.times, video.image)
    whole = KVTP().score(features, video.example.questions[0], tuned)
    slim = KVTP(checkpoint=str(tmp_path / "slim")).score(features, video.example.questions[0], encoder())
    torch.testing.assert_close(slim, whole)


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path):
    towers, computed = fresh(), []
    layer = towers.text_model.encoder.layers[0].mlp.fc1
    layer.register_forward_hook(lambda _, __, output: computed.append((torch.is_grad_enabled(), output.dtype)))
    report = train_predictor(towers, videos(12, 2), videos(4, 3), replace(RECIPE, dtype="bfloat16"), tmp_path)
    assert set(computed) == {(True, torch.bfloat16), (False, torch.float32)}  # training, evaluation
    assert report["validation_after"]["auroc"] > 0.95 > report["validation_before"]["auroc"] + 0.2
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


def test_only_offsets_find_what_is_relevant_by_its_place_alone(tmp_path):
    """Frames are noise; the question asks for the last ones."""
    asked = (Question("", refined="how does it end", spans=((9.0, 12.0, 5.0),)),)
    noise = torch.Generator().manual_seed(5)
    seen = [
        CachedVideo(Example(f"{i}.mp4", asked), torch.randn(12, 32, generator=noise), torch.arange(12.0))
        for i in range(9)
    ]
    found = {}
    for anchors in (0, 3):
        recipe = replace(RECIPE, epochs=4, head=FusionHead(anchors=anchors), head_lr=0.05, videos_per_step=3)
        found[anchors] = train_predictor(fresh(), seen[:6], seen[6:], recipe, tmp_path / str(anchors))[
            "validation_after"
        ]
    assert found[3]["auroc"] > 0.9 > found[0]["auroc"] + 0.2
    tuned = Siglip(str(tmp_path / "3"), device="cpu")
    assert KVTP().head(tuned).offsets.shape == (3, 32)
    scores = KVTP().score(FrameFeatures(seen[8].times, seen[8].image), asked[0], tuned)
    assert scores[9:].mean() > scores[:9].mean() + 1


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_last_epoch(tmp_path):
    """With one video a step, some steps of the second epoch come before the one that fails."""
    recipe = replace(RECIPE, epochs=1, videos_per_step=1)
    train_predictor(fresh(), videos(12, 2), videos(4, 3), recipe, tmp_path)
    bad, note = videos(12, 2), tmp_path / "recipe.json"
    bad[5].image[3] = torch.nan
    note.write_text(json.dumps({**json.loads(note.read_text()), "epochs": 2}))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FloatingPointError, match=r"the loss is nan.*; .* has the predictor as it was at checkpoint-12"):
        train_predictor(fresh(), bad, videos(4, 3), replace(recipe, epochs=2), tmp_path)
    kept, last = (Siglip(str(tmp_path), device="cpu").model, load_file(newest(tmp_path)))
    assert torch.equal(kept.text_model.head.weight, last["towers.text_model.head.weight"])
    assert "the loss is nan" in json.loads((tmp_path / "training.json").read_text())["stopped_by"]


def newest(out: Path) -> Path:
    epochs = sorted((out / "epochs").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return epochs[-1] / "model.safetensors"


def test_a_loss_that_is_no_number_in_the_first_epoch_writes_nothing(tmp_path):
    bad = videos(2, 2)
    bad[0].image[3] = torch.nan
    with pytest.raises(FloatingPointError, match="no epoch was finished, so nothing was written"):
        train_predictor(fresh(), bad, videos(2, 3), RECIPE, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_gradient_that_is_no_number_stops_the_run_before_the_update(tmp_path):
    towers = fresh()
    towers.logit_scale.requires_grad_().register_hook(lambda gradient: gradient * torch.nan)
    before = towers.logit_scale.item()
    with pytest.raises(FloatingPointError, match=r"the gradient of \S+ is not finite.*no epoch was finished"):
        train_predictor(towers, videos(2, 2), videos(2, 3), RECIPE, tmp_path)
    assert towers.logit_scale.item() == before


def test_videos_without_key_frames_are_refused(tmp_path):
    flat = [
        CachedVideo(Example("v.mp4", (Question("", refined="what", spans=()),)), torch.randn(4, 32), torch.arange(4.0))
    ]
    with pytest.raises(ValueError, match="leave 0 and 0 with questions"):
        train_predictor(fresh(), flat, flat, RECIPE, tmp_path)


def test_training_stops_when_validation_gets_no_better(tmp_path):
    recipe = replace(RECIPE, epochs=50, lr=0.0, head_lr=0.0, patience=2, videos_per_step=3)
    report = train_predictor(fresh(), videos(3, 2), videos(2, 3), recipe, tmp_path)
    assert max(line["epoch"] for line in report["log"]) == 3.0  # the first epoch counts as better than nothing


def test_the_slim_form_scores_like_the_whole_one(run, tmp_path):
    again = train_predictor(
        fresh(), videos(3, 2), videos(2, 3), replace(RECIPE, epochs=1), tmp_path / "out", slim=tmp_path / "s"
    )
    video = videos(4, 3)[0]
    features = FrameFeatures(video.times, video.image)
    whole = KVTP().score(features, video.example.questions[0], Siglip(str(tmp_path / "out"), device="cpu"))
    slim = KVTP(checkpoint=str(tmp_path / "s")).score(features, video.example.questions[0], encoder())
    torch.testing.assert_close(slim, whole, atol=0.05, rtol=0.01)
    untuned = KVTP().score(features, video.example.questions[0], encoder())
    assert not torch.allclose(slim, untuned, atol=0.1) and again["stopped_by"] is None
    assert not (tmp_path / "s" / "model.safetensors").exists()
    tower = [value for value in load_file(tmp_path / "s" / "text.safetensors").values() if value.ndim]
    assert {value.dtype for value in tower} == {torch.float16}
    assert set(json.loads((tmp_path / "s" / MANIFEST).read_text())) >= {"text.safetensors", "training.json"}
    checked(tmp_path / "s", "predictor", "scorer.checkpoint")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lora_rank": 4, "parts": "head"}, "no tower is trained; use parts=text or all"),
        ({"lora_rank": -1}, "lora_rank=-1 is below 0"),
        ({"lora_rank": 4}, "lora_rank=4 needs peft; pip install peft, or use lora_rank=0"),
        ({"report_to": "wandb"}, "report_to=wandb: it is not installed; pip install wandb"),
        ({"report_to": "tensorboard"}, "report_to=tensorboard: it is not installed; pip install tensorboard"),
    ],
)
def test_settings_that_cannot_run_are_refused_before_any_video_is_read(wrong, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **wrong)


TINY = str(Path(__file__).parents[1] / "goldens" / "siglip_tiny")
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmms_kvtp"]


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[str]:
    """The command without its output folder; two videos are learned from, and the third tells the best epoch."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_KVTP_HOME", str(folder / "home"))
        cache.ensure("val", [0, 1, 2])
        lines = [
            {"video": Path(made.source).name, "question": asked.stem, "spans": [[20 * n, 20 * n + 16, 5]]}
            for made in synthetic("val", [0, 1, 2])
            for n, asked in enumerate(made.questions[:3])
        ]
        videos = str(cache.folder())
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = ["--index", str(folder / "index.jsonl"), "--videos", videos, "--features", str(folder / "features")]
    recipe = ["--epochs", "2", "--anchors", "2", "--lr", "0.01", "--validation", "0.34", "--level", "frame"]
    return ["train", "predictor", *data, "--pretrained", TINY, "--max-frames-num", "16", "--fps", "0.25", *recipe]


@pytest.fixture(scope="module")
def one(given, tmp_path_factory) -> Path:
    """What one process learns from two videos a step."""
    out = tmp_path_factory.mktemp("one")
    assert main([*given, "--videos-per-step", "2", "--out", str(out)]) == 0
    return out


def in_two(given: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    command = [*TWO, *given, "--videos-per-step", "1", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_twice_the_videos_a_step(given, one, tmp_path):
    run = in_two(given, tmp_path)
    assert run.returncode == 0, run.stderr
    assert len([line for line in run.stdout.splitlines() if line.startswith("| after")]) == 1  # one of them reports
    untuned, alone, both = (load_file(Path(folder) / "model.safetensors") for folder in (TINY, one, tmp_path))
    assert any((alone[name] - untuned[name]).abs().max() > 1e-2 for name in alone)
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_stops_both(given, one, tmp_path):
    """The other would else wait for gradients that never come."""
    features, spoiled = Path(given[given.index("--features") + 1]), tmp_path / "features"
    spoiled.mkdir()
    learned = json.loads((one / "training.json").read_text())["data"]["videos"]
    stored = {path: load_file(path) for path in sorted(features.iterdir())}
    assert learned == 2 and len(stored) == 3
    for number, (path, tensors) in enumerate(stored.items()):
        if number == 0:
            tensors["image"][3] = torch.nan
        save_file(tensors, spoiled / path.name)
    run = in_two([*given, "--features", str(spoiled)], tmp_path / "out")
    assert run.returncode != 0 and not (tmp_path / "out" / "model.safetensors").exists()
    assert "the loss is nan" in run.stderr and "the loss is not finite in another process" in run.stderr
