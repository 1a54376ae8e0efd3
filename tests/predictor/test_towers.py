"""Ways to train beside the cached embeddings: adapters, the vision tower itself, and a head on a shared tower."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import write_tiny
from safetensors.torch import load_file
from transformers import AutoModel

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.encoders.tower import TowerEncoder
from lmms_kvtp.predictor.examples import Example
from lmms_kvtp.predictor.features import CachedVideo
from lmms_kvtp.predictor.model import Objective, Predictor, lesson
from lmms_kvtp.predictor.recipe import Recipe
from lmms_kvtp.predictor.towers import SharedTowers, SiglipTowers
from lmms_kvtp.predictor.train import add_adapters, checkpoint_layers, train_predictor
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.video.frames import Frames
from lmms_kvtp.vlms.llava_video import LlavaVideo, load_llava_video

TINY = Path(__file__).parents[1] / "goldens" / "siglip_tiny"
THINGS = ["cat", "dog", "sun"]
RECIPE = Recipe(epochs=4, lr=3e-3, objective=Objective(level="frame"))


def videos(count: int, seed: int, looks: torch.Tensor, frames: int = 6) -> list[CachedVideo]:
    """Frames look like one of three things; questions ask for a thing."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        shown = torch.randint(0, 3, (frames,), generator=draw)
        noise = torch.randn(frames, *looks.shape[1:], generator=draw) * 0.1
        questions = []
        for thing, name in enumerate(THINGS):
            spans = tuple((float(t), t + 1.0, 5.0) for t in range(frames) if shown[t] == thing)
            questions += [Question("", refined=f"find the {name}", spans=spans)] if spans else []
        made.append(CachedVideo(Example(f"v{number}.mp4", tuple(questions)), looks[shown] + noise, torch.arange(6.0)))
    return made


def looks(*shape: int) -> torch.Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))


def towers(parts="text") -> SiglipTowers:
    return SiglipTowers(Siglip(str(TINY), device="cpu"), parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def vlm(folder) -> LlavaVideo:
    return load_llava_video(str(folder))


def test_adapters_change_nothing_at_first_and_are_merged_into_plain_weights(tmp_path):
    recipe = replace(RECIPE, lora_rank=3, lr=2e-2)
    made = towers()
    names = set(made.state_dict())
    train_predictor(made, videos(8, 2, looks(32)), videos(3, 3, looks(32)), recipe, tmp_path)
    assert set(made.state_dict()) == names  # no adapter is left
    before, after = towers().encoder.model.state_dict(), AutoModel.from_pretrained(tmp_path).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {name for name in changed if not name.startswith("logit_")}
    assert matrices and all(name.startswith("text_model.encoder.layers.") for name in matrices)
    assert all(name.endswith("weight") for name in matrices)
    ranks = {int(torch.linalg.matrix_rank(after[name] - before[name], atol=1e-4)) for name in matrices}
    assert max(ranks) == 3


def test_adapters_leave_the_logits_as_they_were_until_they_learn():
    each = lesson(videos(1, 2, looks(32))[0], towers())
    made = towers()
    model = Predictor(made, RECIPE.head, RECIPE.objective)
    before = model.logits(each)[0]
    adapters = add_adapters(made, replace(RECIPE, lora_rank=2))
    torch.testing.assert_close(model.logits(each)[0], before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.endswith(("log_tau", "logit_scale", "logit_bias")) for name in trained)
    assert any("lora_" in name for name in trained) and not any("vision" in name for name in trained)
    adapters.merge_and_unload()
    torch.testing.assert_close(model.logits(each)[0], before)


def test_the_vision_tower_learns_from_pixels(tmp_path):
    recipe = replace(RECIPE, parts="all", epochs=2, lr=1e-3, videos_per_step=2, gradient_checkpointing=True)
    made, passes = towers("all"), []
    layer = made.text_model.encoder.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    train_predictor(made, videos(4, 2, looks(3, 42, 42)), videos(2, 3, looks(3, 42, 42)), recipe, tmp_path)
    before, after = towers().encoder.model.state_dict(), AutoModel.from_pretrained(tmp_path).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"text_model", "vision_model", "logit_scale", "logit_bias"}
    assert sum(passes) == 2 * 2 * 4  # every activation is made twice


def test_pixels_give_the_embeddings_that_the_encoder_gives():
    noise = np.random.default_rng(7).integers(0, 256, (4, 13, 17, 3), dtype=np.uint8)
    frames, from_pixels = Frames(torch.from_numpy(noise), torch.arange(4.0)), towers("all")
    embedded = towers().viewer.view(frames, 4)
    seen = from_pixels.viewer.view(frames, 4)
    assert seen.shape == (4, 3, 42, 42) and seen.dtype == torch.float16
    torch.testing.assert_close(from_pixels.see(seen), embedded, atol=0.02, rtol=0.01)
    assert torch.equal(towers().see(embedded), embedded)


def test_gradient_checkpointing_gives_the_same_gradients_from_twice_the_passes():
    [video] = videos(1, 2, looks(3, 42, 42))
    found = []
    for saving in (False, True):
        made = towers("all")
        model = Predictor(made, RECIPE.head, RECIPE.objective).train()
        if saving:
            checkpoint_layers(made)
        passes: list[int] = []
        layer = made.text_model.encoder.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        model([lesson(video, made)])["loss"].backward()
        found.append((len(passes), [parameter.grad for parameter in model.parameters()]))
    (once, plain), (twice, saved) = found
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(plain, saved)


def test_a_shared_towers_head_learns_and_serves_through_the_scorer(vlm, folder, tmp_path):
    encoder = Siglip(str(folder / "siglip"), device="cpu")
    made = SharedTowers(vlm, encoder)
    frames = Frames(torch.randint(0, 256, (2, 20, 20, 3), dtype=torch.uint8), torch.arange(2.0))
    seen = made.viewer.view(frames, 4)
    assert seen.shape == (2, vlm.pool.grid[0] * vlm.pool.grid[1], 24) and seen.dtype == torch.float16
    torch.testing.assert_close(seen.float(), vlm.pool(vlm.see(frames)), atol=0.01, rtol=0.01)
    training, validation = videos(10, 2, looks(5, 24)), videos(4, 3, looks(5, 24))
    report = train_predictor(made, training, validation, replace(RECIPE, epochs=6), tmp_path, slim=tmp_path / "slim")
    assert report["validation_after"]["auroc"] > 0.9 > report["validation_before"]["auroc"]
    tower, video = TowerEncoder(str(tmp_path), device="cpu"), validation[0]
    features = tower.describe(video.image, video.times, frozenset({"image"}))
    scores = KVTP().score(features, video.example.questions[0], tower)
    key = video.labels()[0] > 0
    assert scores[key].min() > scores[~key].max()
    half = TowerEncoder(str(tmp_path / "slim"), device="cpu")
    slim = KVTP().score(half.describe(video.image, video.times, frozenset({"image"})), video.example.questions[0], half)
    torch.testing.assert_close(slim, scores, atol=0.1, rtol=0.02)
    assert precisions(tmp_path) == {torch.float32} and precisions(tmp_path / "slim") == {torch.float16}


def precisions(folder: Path) -> set[torch.dtype]:
    """Of the matrices; logit scale and bias are two numbers beside them."""
    files = [load_file(folder / f"{side}.safetensors") for side in ("tower_head", "text")]
    return {value.dtype for file in files for value in file.values() if value.ndim}


@pytest.mark.parametrize(("parts", "sides"), [("head", {"head"}), ("text", {"head", "text_model"})])
def test_a_shared_towers_head_always_learns(vlm, folder, parts, sides):
    made = SharedTowers(vlm, Siglip(str(folder / "siglip"), device="cpu"), parts)
    model = Predictor(made, RECIPE.head, RECIPE.objective)
    learned = {name.removeprefix("towers.") for name, each in model.named_parameters() if each.requires_grad}
    assert {name.split(".")[0] for name in learned} == {"log_tau", "logit_scale", "logit_bias"} | sides


def test_a_shared_head_starts_from_the_siglip_of_the_tower(vlm, folder):
    made = SharedTowers(vlm, Siglip(str(folder / "siglip"), device="cpu"))
    theirs = made.encoder.model.vision_model
    assert torch.equal(made.head.probe, theirs.head.probe)
    assert torch.equal(made.head.post_layernorm.weight, theirs.post_layernorm.weight)
    other = SharedTowers(vlm, Siglip(str(TINY), device="cpu"))  # of width 32: nothing to start from
    patches = torch.randn(3, 5, 24)
    assert other.head(patches).shape == (3, 32) and other.head.shape.intermediate == 40


def test_the_models_own_tower_is_not_trained(vlm, folder):
    with pytest.raises(ValueError, match="parts=all with a shared tower: that tower is the model's own"):
        SharedTowers(vlm, Siglip(str(folder / "siglip"), device="cpu"), "all")


def test_a_trained_vision_tower_has_no_slim_form(tmp_path):
    with pytest.raises(ValueError, match="has no slim form; use its folder"):
        towers("all").save_slim(tmp_path)
