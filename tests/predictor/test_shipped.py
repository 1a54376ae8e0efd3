"""The embedded predictors: small, whole, and fit for the embedded model."""

import json

import pytest
import torch

from lmms_kvtp.api import load
from lmms_kvtp.encoders.parts.predictor import find_predictor, shipped_predictors
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.leaderboard.provenance import label
from lmms_kvtp.method import KVTP as KVTP_ROW
from lmms_kvtp.method import build_method
from lmms_kvtp.predictor.compare import UNTUNED, baselines, measure_candidates, trained
from lmms_kvtp.predictor.examples import synthetic
from lmms_kvtp.predictor.measure import mean_by_video
from lmms_kvtp.questions import Question
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.types import FrameFeatures

TOWER = "tower of tiny, text side of tiny"
SHIPPED = {"tiny": "tiny", "tiny_anchors": "tiny", "tiny_shared": TOWER, "tiny_shared_anchors": TOWER}


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_whole_and_say_how_they_were_trained(name):
    files = [path for path in find_predictor(name).folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1e6
    notes = json.loads((find_predictor(name).folder / "training.json").read_text())
    assert notes["stopped_by"] is None and notes["started_from"] == SHIPPED[name]
    assert notes["validation_after"]["recall"] > notes["validation_before"]["recall"] + 0.01


def test_those_without_a_suffix_are_the_papers_and_rows_of_the_others_are_marked_as_ours():
    told = {name: find_predictor(name).extensions for name in shipped_predictors()}
    beyond = ["anchors", "flatness"]
    assert told == {
        "tiny": [],
        "tiny_anchors": beyond,
        "tiny_shared": ["shared tower"],
        "tiny_shared_anchors": ["shared tower", *beyond],
    }
    recipe = find_predictor("tiny").training["recipe"]
    assert (recipe["objective"]["level"], recipe["head"]["queries"], recipe["parts"]) == ("frame", "raw", "text")
    method = build_method({"pruner": "tome"}, {**KVTP_ROW, "predictor": "tiny"}).describe()
    ours = build_method({"pruner": "tome", "predictor": "tiny_shared_anchors"}, KVTP_ROW).describe()
    assert label(method) == "KVTP + ToMe"
    assert label(ours) == "KVTP with shared tower, anchors, flatness (ours) + ToMe"


def test_it_scores_frames_of_the_embedded_siglip_otherwise_than_the_untuned_one():
    encoder = Siglip("tiny", device="cpu")
    width = encoder.model.config.text_config.projection_size
    features = FrameFeatures(torch.arange(9.0), torch.randn(9, width, generator=torch.manual_seed(1)))
    question = Question("", refined="What color is the star? Choices: red, blue.")
    tuned, untuned = (s.score(features, question, encoder) for s in (KVTP(checkpoint="tiny"), KVTP(fusion=False)))
    assert tuned.shape == (9,) and torch.isfinite(tuned).all()
    assert not torch.allclose(tuned, untuned, atol=0.1)


def test_all_find_far_more_key_frames_than_chance_and_those_with_anchors_all_of_them(tmp_path, monkeypatch):
    """On two videos of the validation split, where the untuned scorer finds many; docs/predictor.md has fifty."""
    monkeypatch.setenv("LMMS_KVTP_HOME", str(tmp_path))
    found, untuned, vlm = synthetic("val", [0, 1]), Siglip("tiny", device="cpu", dtype="float32"), load("tiny").vlm
    rows = {name: trained(name, untuned, vlm, {}) for name in SHIPPED}
    (outcomes,) = measure_candidates(baselines(untuned) | rows, found, tmp_path / "features").values()
    recall = {name: mean_by_video(outcome.key)["recall"] for name, outcome in outcomes.items()}
    assert recall["tiny_anchors"] > 0.95 and recall["tiny"] > recall[UNTUNED] - 0.05
    assert min(recall["tiny_shared"], recall["tiny_shared_anchors"]) > recall["uniform"] + 0.2
