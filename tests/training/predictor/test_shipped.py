"""The embedded predictor: small, whole, and fit for the embedded model's SigLIP."""

import json

import torch

from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.scorers.kvtp import KVTP
from lmms_kvtp.scorers.similarity import Similarity
from lmms_kvtp.shipped import checked, shipped_folder
from lmms_kvtp.types import FrameFeatures, Question

FOLDER = shipped_folder("tiny_predictor")


def test_it_is_small_and_whole_and_says_how_it_was_trained():
    files = [path for path in checked(FOLDER, "embedded predictor", "scorer.checkpoint").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1.5e6
    notes = json.loads((FOLDER / "training.json").read_text())
    assert notes["stopped_by"] is None and notes["started_from"] == "tiny"
    assert notes["validation_after"]["recall"] > notes["validation_before"]["recall"] + 0.03


def test_it_scores_frames_of_the_embedded_siglip_otherwise_than_the_untuned_one():
    encoder = Siglip(str(shipped_folder("tiny") / "siglip"), device="cpu")
    width = encoder.model.config.text_config.projection_size
    features = FrameFeatures(torch.arange(9.0), torch.randn(9, width, generator=torch.manual_seed(1)))
    question = Question("", refined="What color is the star? Choices: red, blue.")
    tuned, untuned = (s.score(features, question, encoder) for s in (KVTP(checkpoint="tiny"), Similarity()))
    assert tuned.shape == (9,) and torch.isfinite(tuned).all()
    assert not torch.allclose(tuned, untuned, atol=0.1)
