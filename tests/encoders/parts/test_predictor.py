"""What `predictor=` names: the three forms, and everything that is none."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import write_tiny

from lmms_kvtp.encoders.parts.predictor import find_predictor, frames_key, is_predictor, shipped_predictors
from lmms_kvtp.encoders.parts.text_side import save_text_side
from lmms_kvtp.encoders.parts.tower_head import HeadShape, TowerHead
from lmms_kvtp.encoders.siglip import Siglip
from lmms_kvtp.scorers.parts.fusion import FusionHead


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("llava")) / "siglip"


@pytest.fixture
def whole(siglip, tmp_path) -> Path:
    """A fine-tuned SigLIP with its head."""
    folder = Path(shutil.copytree(siglip, tmp_path / "whole"))
    FusionHead().save(folder)
    return folder


@pytest.fixture
def slim(siglip, tmp_path) -> Path:
    encoder = Siglip(str(siglip), device="cpu")
    save_text_side(tmp_path / "slim", encoder.model.text_model, encoder.tokenizer, 1.0, 0.0)
    FusionHead().save(tmp_path / "slim")
    return tmp_path / "slim"


def note(folder: Path, **content) -> None:
    (folder / "training.json").write_text(json.dumps(content))


def test_each_form_sets_its_own_parts(whole, slim):
    assert find_predictor(str(whole)).settings == {"encoder": "siglip", "encoder.pretrained": str(whole)}
    assert find_predictor(str(slim)).settings == {"scorer.checkpoint": str(slim)}
    TowerHead(HeadShape(24, 40, 3, 24)).save(slim)
    assert find_predictor(str(slim)).settings == {"encoder": "tower", "encoder.pretrained": str(slim)}
    assert find_predictor(str(slim)).extensions == ["shared tower"]


def test_a_head_that_was_not_saved_is_missing(siglip, whole):
    assert find_predictor(str(whole)).head and is_predictor(str(whole))
    assert not find_predictor(str(siglip)).head and not is_predictor(str(siglip))


def test_what_training_notes_says_what_is_not_the_papers(slim):
    note(slim, recipe={"head": {"anchors": 16}, "objective": {"flatness": 0.3}})
    assert find_predictor(str(slim)).extensions == ["anchors", "flatness"]
    note(slim, recipe={"head": {"anchors": 0}, "objective": {"flatness": 0.0}})
    assert find_predictor(str(slim)).extensions == []


def test_evaluation_data_is_known_by_the_names_of_its_tasks(slim):
    note(slim, recipe={}, data={"evaluation": ["NExT-QA"]})
    found = find_predictor(str(slim))
    assert found.has_seen("skvqa_nextqa_full") and not found.has_seen("skvqa_videomme")


def test_frames_of_other_weights_are_refused_and_the_same_weights_elsewhere_are_not(siglip, slim, tmp_path):
    own = siglip / "model.safetensors"
    note(slim, started_from="mine", frames_read_by=frames_key([own]))
    other = Path(shutil.copy(own, tmp_path / "renamed.safetensors"))
    find_predictor(str(slim)).check_frames([other], "theirs")
    other.write_bytes(own.read_bytes()[:-4] + torch.zeros(1).numpy().tobytes())
    with pytest.raises(ValueError, match=r"trained on frames as mine reads them, and theirs has other weights"):
        find_predictor(str(slim)).check_frames([other], "theirs")


def test_nothing_is_mistaken_for_a_predictor(slim, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, message in {
        str(empty): r"holds no predictor: neither fusion\.json and fusion\.safetensors nor the config\.json",
        "google/siglip-so400m-patch14-384": "as it was released, no trained predictor; name it as encoder.pretrained",
        "nowhere": r"there is no such folder; give a folder, a hub id, or one of tiny",
        str(slim / "text.json"): "there is no such folder",
        "x" * 300: "there is no such folder",
    }.items():
        with pytest.raises(ValueError, match=message):
            find_predictor(name)
    (slim / "fusion.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds fusion\.json alone; a fusion head is fusion\.json and fusion\.safe"):
        find_predictor(str(slim))


def test_a_hub_that_is_away_is_named_with_the_way_on(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"predictor=a/b is no folder here, and the hub gave none: .*; give a folder"):
        find_predictor("a/b")


def test_a_folder_that_training_still_writes_is_refused(slim):
    (slim / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is being written by `lmms-kvtp train`, or that broke off; wait for its"):
        find_predictor(str(slim))
    note(slim, recipe={})
    find_predictor(str(slim))
    (slim / "training.json").write_text('{"recipe": ')
    with pytest.raises(ValueError, match=r"training\.json is damaged: .*train the predictor again"):
        find_predictor(str(slim))


@pytest.mark.parametrize(
    "odd", ["[]", "null", "[" * 5000, '{"recipe": "x"}', '{"recipe": {"head": {"anchors": "x"}}}', '{"data": []}']
)
def test_a_note_of_training_with_odd_values_is_named(slim, odd):
    (slim / "training.json").write_text(odd.replace("[]", "[1]"))
    with pytest.raises(ValueError, match=r"training\.json is damaged: .*train the predictor again"):
        find_predictor(str(slim))


def test_the_shipped_ones_are_known_by_name():
    assert {"tiny", "tiny_shared"} <= set(shipped_predictors())
    assert find_predictor("tiny").form == "slim" and find_predictor("tiny_shared").form == "shared"
