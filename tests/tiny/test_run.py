"""The recipe from end to end at toy sizes: resumption, the exported checkpoint, its manifest."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import SiglipModel

from benchmarks.embedded_model import run
from benchmarks.embedded_model.footage import tower_features
from benchmarks.embedded_model.language import answer_logits, pack
from benchmarks.embedded_model.stage_soft import SoftStage
from benchmarks.embedded_model.stage_tower import TowerStage
from benchmarks.embedded_model.stage_video import AlignStage, Cut, VideoStage
from benchmarks.embedded_model.student import Geometry, Student
from lmms_kvtp.embedded.questions import ask
from lmms_kvtp.embedded.script import write_script
from lmms_kvtp.shipped import checked
from lmms_kvtp.types import PackedTokens
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.llava_video import load_llava_video

CPU = torch.device("cpu")
RECIPE = run.TrainingPlan(
    geometry=Geometry(
        vision_width=16, vision_layers=2, vision_heads=2, vision_mlp=24, text_layers=1,
        llm_width=24, llm_layers=2, llm_heads=6, llm_kv_heads=2, llm_mlp=40,
    ),
    num_videos=2,
    tower=TowerStage(steps=2, batch=5, phrases=7),
    soft={
        "look": SoftStage(3, (11, 14), ((1, 2),), 2, 4, 2, odds=(0.5, 0.0, 0.0, 0.5), bare=True),
        "letters": SoftStage(1, (17, 18), ((2, 3),), 2, 4),
    },
    align=AlignStage(steps=2, batch=4),
    video={
        "video": VideoStage((Cut(1, (16, 17), 2, 4, 2),)),
        "polish": VideoStage((Cut(1, None, 1, 4, 4),), mixed=True),
    },
    held_out=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    torch.set_num_threads(1)
    run.train(3, out, CPU, RECIPE)
    return out


def test_the_log_names_seed_data_recipe_code_and_accuracies(trained: Path) -> None:
    log = json.loads((trained / "training_log.json").read_text())
    assert log["seed"] == 3 and log["recipe"]["tower"]["steps"] == 2 and log["code"]
    assert set(log["accuracy_on_val"]) == {"full", "random", "blind"}
    assert log["accuracy_on_val"]["full"]["questions"] == len(ask(write_script(0, "val")))


def test_a_run_killed_between_stages_ends_like_an_unbroken_one(trained: Path, tmp_path: Path) -> None:
    whole = {name: part.clone() for name, part in load_file(trained / "model.safetensors").items()}
    for stage in ("align.pt", "video.pt", "polish.pt"):
        (trained / "work" / stage).rename(tmp_path / stage)
    (trained / "model.safetensors").unlink()
    torch.manual_seed(99)
    run.train(3, trained, CPU, RECIPE)
    again = load_file(trained / "model.safetensors")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    first, second = (torch.load(folder / "polish.pt")["model"] for folder in (tmp_path, trained / "work"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_folder_with_another_run_is_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"holds stages of a run with another seed; give another --out, or delete"):
        run.train(4, trained, CPU, RECIPE)
    with pytest.raises(ValueError, match=r"another seed and recipe"):
        run.train(4, trained, CPU, replace(RECIPE, held_out=7))


def test_the_checkpoint_answers_through_the_package_as_in_training(trained: Path) -> None:
    letters, captions = run.make_tokenizers(RECIPE.geometry)
    student = Student(RECIPE.geometry, letters).eval()
    student.load_state_dict(torch.load(trained / "work" / "polish.pt")["model"])
    siglip = SiglipModel(RECIPE.geometry.siglip(len(captions))).eval()
    siglip.load_state_dict(torch.load(trained / "work" / "tower.pt")["model"])
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), np.uint8))
    question = ask(write_script(5, "val"))[2]
    with torch.no_grad():
        run.round_to_half(student)
        run.round_to_half(siglip)
        features = tower_features(siglip.vision_model, rgb, CPU, exact=True)
        video = student.with_prefix(student.with_newlines(student.project(features[None])))
        expected = answer_logits(student.llm, video, pack(letters, [[(question.prompt, question.answer)]], 1))[0][0]
    model = load_llava_video(str(trained))
    tokens = model.encode(Frames(rgb, torch.arange(3.0)))
    assert tokens.grid == (6, 6)
    packed = PackedTokens(
        embeds=tokens.embeds.flatten(0, 1),
        frame=torch.arange(3).repeat_interleave(36),
        patch=torch.arange(36).repeat(3),
        size=torch.ones(108),
        grid=tokens.grid,
        num_frames=3,
    )
    prompt = model.assemble([packed], question.prompt)
    torch.testing.assert_close(model.next_token_logits(prompt), expected, atol=1e-4, rtol=1e-4)


def test_the_siglip_beside_it_is_the_tower_and_loads_by_itself(trained: Path) -> None:
    siglip = SiglipModel.from_pretrained(trained / "siglip")
    weights = load_file(trained / "model.safetensors")
    key = "embeddings.patch_embedding.weight"
    shared = weights[f"model.vision_tower.vision_tower.vision_model.{key}"]
    assert torch.equal(siglip.vision_model.state_dict()[key].half(), shared)
    layers = {name.split(".")[6] for name in weights if "vision_model.encoder.layers" in name}
    assert layers == {"0"}, "the last of two layers is not part of a LLaVA-Video checkpoint"


def test_the_manifest_names_every_shipped_file(trained: Path) -> None:
    named = set(json.loads((trained / "sha256.json").read_text()))
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert named == {name for name in files if not name.startswith("work/")} - {"sha256.json"}
    assert {"model.safetensors", "siglip/model.safetensors", "training_log.json"} <= named
    assert checked(trained, "model", "pretrained") == trained
